#!/bin/sh
# Opens reports in a real browser, at phone and desktop width, light and dark: takes screenshots to be looked at, and fails
# if the browser's console has anything to say or the page is wider than the screen.
#
#   scripts/check_report.sh OUT report/index.html [more.html...]
#
# Needs Chromium (Debian: apt-get install chromium). Not part of the tests.
set -eu
[ $# -ge 2 ] || { sed -n '2,7p' "$0"; exit 2; }
out=$1
shift
mkdir -p "$out"
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
failed=0
for page in "$@"; do
    page=$(realpath "$page")
    # runs/a/report/index.html and runs/b/report/index.html have pictures of their own.
    name=$(echo "${page%.html}" | awk -F/ '{ for (i = (NF > 4 ? NF - 3 : 2); i < NF; i++) printf "%s-", $i; print $NF }')
    for width in 390 1280; do
        for mode in light dark; do
            # Blink's setting for prefers-color-scheme: 0 is dark, 1 is light.
            scheme=1
            [ "$mode" = light ] || scheme=0
            picture=$out/$name-$width-$mode.png
            console=$out/$name-$width-$mode.log
            # A narrow window is only narrow in a frame: Chromium's own windows have a least width of 500 pixels.
            frame=$profile/frame.html
            cat > "$frame" <<HTML
<!DOCTYPE html><meta charset="utf-8"><style>body{margin:0}iframe{border:0;width:${width}px;height:9000px}</style>
<iframe id="page" src="file://$page"></iframe>
<script>
onload = () => {
  const doc = document.getElementById("page").contentDocument;
  const wide = doc.documentElement.scrollWidth;
  if (wide > $width) console.error("the page is " + wide + " pixels wide on a screen of $width");
};
</script>
HTML
            chromium --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
                --disable-component-update --disable-sync --allow-file-access-from-files --hide-scrollbars \
                --blink-settings=preferredColorScheme=$scheme --user-data-dir="$profile/data" --enable-logging=stderr \
                --window-size=$width,9000 --screenshot="$picture" "file://$frame" 2> "$console" || failed=1
            if grep -E 'CONSOLE' "$console"; then
                echo "$picture: the console is not empty"
                failed=1
            fi
            echo "$picture"
        done
    done
done
exit $failed
