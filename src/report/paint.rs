//! The colours of the charts and of the page, each in a light and a dark version.
//!
//! Charts are drawn in the light version. On the page, where the reader may prefer dark, a style rule for each colour
//! replaces it: so one SVG serves both, and pictures that leave the page stay readable on white.

use super::figure::Ink;
use std::fmt::Write;

/// A colour by its role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// The background.
    Surface,
    /// Headlines.
    Text,
    /// Axis labels and legend.
    Muted,
    /// Grid lines.
    Grid,
    /// Axis lines.
    Axis,
    /// A series in full.
    Ink(Ink),
    /// A series in pale, for raw values behind their mean.
    Pale(Ink),
    /// A series that others shine through: the colour of its ink, so that it needs no dark rule of its own.
    Glass(Ink),
}

/// Light and dark version of each ink. Neighbours differ in lightness too, for those who see fewer hues.
const INKS: [([u8; 3], [u8; 3]); 8] = [
    ([0x25, 0x63, 0xB0], [0x6C, 0xA8, 0xF0]), // blue
    ([0xD9, 0x66, 0x0B], [0xF5, 0x9A, 0x4A]), // orange
    ([0x5B, 0x64, 0x70], [0xA3, 0xAD, 0xB8]), // grey
    ([0x8B, 0x3F, 0xB5], [0xC5, 0x8A, 0xE8]), // purple
    ([0xC6, 0x28, 0x28], [0xF0, 0x7A, 0x73]), // red
    ([0x2E, 0x7D, 0x32], [0x7B, 0xC6, 0x7F]), // green
    ([0x8D, 0x5A, 0x2B], [0xD2, 0xA6, 0x79]), // brown
    ([0x00, 0x83, 0x8F], [0x4F, 0xC3, 0xCB]), // teal
];

impl Paint {
    /// Light and dark version as red, green, blue.
    pub fn versions(self) -> ([u8; 3], [u8; 3]) {
        match self {
            Paint::Surface => ([0xFF, 0xFF, 0xFF], [0x13, 0x17, 0x1C]),
            Paint::Text => ([0x1B, 0x20, 0x27], [0xE6, 0xEA, 0xEE]),
            Paint::Muted => ([0x56, 0x60, 0x6D], [0x9D, 0xA8, 0xB4]),
            Paint::Grid => ([0xE3, 0xE7, 0xEC], [0x27, 0x2F, 0x38]),
            Paint::Axis => ([0x9A, 0xA3, 0xAE], [0x5A, 0x64, 0x72]),
            Paint::Ink(ink) | Paint::Glass(ink) => INKS[ink % INKS.len()],
            Paint::Pale(ink) => {
                let (light, dark) = INKS[ink % INKS.len()];
                let (paper, night) = Paint::Surface.versions();
                (mix(light, paper), mix(dark, night))
            }
        }
    }

    /// How much of what lies below it hides, from 0 to 1.
    pub fn opacity(self) -> f64 {
        if let Paint::Glass(_) = self { 0.22 } else { 1.0 }
    }

    /// All colours that can be on a chart.
    fn all() -> impl Iterator<Item = Paint> {
        let plain = [Paint::Surface, Paint::Text, Paint::Muted, Paint::Grid, Paint::Axis];
        plain.into_iter().chain((0..INKS.len()).flat_map(|ink| [Paint::Ink(ink), Paint::Pale(ink)]))
    }
}

/// Two fifths of the colour on three fifths of the background.
fn mix(color: [u8; 3], background: [u8; 3]) -> [u8; 3] {
    std::array::from_fn(|i| ((2 * u16::from(color[i]) + 3 * u16::from(background[i])) / 5) as u8)
}

/// `#2563B0`, as the charts' SVG spells it.
pub fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// Style rules that turn the charts within `selector` dark.
pub fn dark_rules(selector: &str) -> String {
    let mut rules = String::new();
    for paint in Paint::all() {
        let (light, dark) = paint.versions();
        let (light, dark) = (hex(light), hex(dark));
        for property in ["fill", "stroke"] {
            // Writing to a String cannot fail.
            let _ = writeln!(rules, "{selector} [{property}=\"{light}\"]{{{property}:{dark}}}");
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_roles_share_a_light_colour() {
        // Else a dark rule for one would repaint the other.
        let mut colours: Vec<String> = Paint::all().map(|paint| hex(paint.versions().0)).collect();
        let count = colours.len();
        colours.sort();
        colours.dedup();
        assert_eq!(colours.len(), count);
    }
}
