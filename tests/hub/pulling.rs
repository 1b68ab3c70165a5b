//! Pulling: the cache's layout, integrity, resuming, refusals. What hf-hub 1.0 was seen to get wrong (the body of an error
//! stored as a model, a flipped bit accepted, no resuming, no retry) has a test each; expected bytes are what was put on
//! the hub.

use super::server::{Fault, Wrong};
use super::{World, assert_token_is_safe, bytes, model, read};
use taper::hub::{Client, Pulled, Settings, Want, pull};
use taper::ui::Silent;

const ID: &str = "owner/name";

fn filled(weights: &[u8]) -> (World, String) {
    let world = World::start();
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{\"model_type\": \"gpt2\"}"),
        ("tokenizer.json", b"{}"),
        ("README.md", "# Ä model".as_bytes()),
        ("training/state.json", b"{}"),
        ("model.safetensors", weights),
    ];
    let commit = world.hub.put(ID, &files);
    (world, commit)
}

fn pulled(world: &World) -> taper::Result<Pulled> {
    pull(&world.client(), &model(ID), Want::Model, &Silent)
}

fn blobs(world: &World) -> Vec<String> {
    world.names("hub/models--owner--name/blobs")
}

#[test]
fn the_cache_has_the_layout_of_the_python_client() {
    let weights = bytes(300_000, 1);
    let (world, commit) = filled(&weights);
    let pulled = pulled(&world).unwrap();
    assert_eq!((pulled.commit.as_str(), pulled.fetched), (commit.as_str(), 4));
    assert_eq!(pulled.files, ["README.md", "config.json", "model.safetensors", "tokenizer.json"]);
    let root = world.home.path().join("hub/models--owner--name");
    assert_eq!(pulled.folder, root.join("snapshots").join(&commit));
    assert_eq!(read(root.join("refs/main")), commit.as_bytes());
    assert_eq!(read(pulled.folder.join("model.safetensors")), weights);
    let target = std::fs::read_link(pulled.folder.join("model.safetensors")).unwrap();
    assert!(target.starts_with("../../blobs/"), "{}", target.display());
    // One blob by SHA-256 (LFS), three by git's SHA-1; nothing unfinished.
    let lengths: Vec<usize> = blobs(&world).iter().map(String::len).collect();
    assert_eq!((lengths.iter().filter(|&&n| n == 64).count(), lengths.iter().filter(|&&n| n == 40).count()), (1, 3));
    assert!(world.names("hub/.locks/models--owner--name").iter().all(|name| name.ends_with(".lock")));
    // Once more: nothing is fetched.
    world.hub.forget();
    assert_eq!(pull(&world.client(), &model(ID), Want::Model, &Silent).unwrap().fetched, 0);
    assert!(world.hub.asked("GET", "/resolve").is_empty());
    // By its commit, not even asked for.
    world.hub.forget();
    pull(&world.client(), &model(ID).at(&commit).unwrap(), Want::Model, &Silent).unwrap();
    assert!(world.hub.all_asked().is_empty());
    assert_token_is_safe(&world.hub, &[]);
}

#[test]
fn a_tokenizer_is_pulled_alone() {
    let (world, _) = filled(&bytes(1000, 1));
    let pulled = pull(&world.client(), &model(ID), Want::Tokenizer, &Silent).unwrap();
    assert_eq!(pulled.files, ["tokenizer.json"]);
    assert!(!pulled.folder.join("model.safetensors").exists());
}

#[test]
fn the_token_stays_with_the_hub() {
    let (world, _) = filled(&bytes(1000, 1));
    pulled(&world).unwrap();
    let hub: Vec<_> = world.hub.all_asked().into_iter().filter(|asked| asked.origin == "hub").collect();
    assert!(!hub.is_empty() && hub.iter().all(|asked| asked.authorization.is_some()));
    assert!(!world.hub.asked("GET", "/blob/").is_empty());
    assert_token_is_safe(&world.hub, &[]);
    // Switched off for what is open to all.
    world.hub.forget();
    let settings = Settings { implicit_token: false, cache: world.home.path().join("other"), ..world.settings() };
    pull(&Client::new(settings), &model(ID), Want::Model, &Silent).unwrap();
    assert!(world.hub.all_asked().iter().all(|asked| asked.authorization.is_none()));
}

/// hf-hub 1.0 stored the body of a 403 from storage as model.safetensors and returned Ok.
#[test]
fn the_body_of_an_error_is_never_a_file() {
    for status in [403, 404, 500] {
        let (world, _) = filled(&bytes(1000, 1));
        let wrong = Wrong::Status(status, &[], "<Error><Code>AccessDenied</Code></Error>");
        world.hub.faults(Fault { method: "GET", path: "/blob/", after: 0, times: 100, wrong });
        let error = pulled(&world).unwrap_err().to_string();
        assert!(!error.contains("X-Amz"), "{error}");
        assert!(!blobs(&world).iter().any(|name| name.len() == 64), "{:?}", blobs(&world));
        // No reference leads to what is not whole.
        assert!(world.names("hub/models--owner--name/refs").is_empty());
        assert_token_is_safe(&world.hub, &[error]);
    }
}

/// hf-hub 1.0 accepted a flipped bit.
#[test]
fn a_flipped_bit_is_found_and_fetched_again() {
    let weights = bytes(100_000, 2);
    for path in ["/blob/", "resolve-cache"] {
        let (world, _) = filled(&weights);
        world.hub.fault("GET", path, Wrong::Corrupt);
        let pulled = pulled(&world).unwrap();
        assert_eq!(read(pulled.folder.join("model.safetensors")), weights);
        assert_eq!(read(pulled.folder.join("config.json")), b"{\"model_type\": \"gpt2\"}");
    }
    let (world, _) = filled(&weights);
    world.hub.faults(Fault { method: "GET", path: "/blob/", after: 0, times: 100, wrong: Wrong::Corrupt });
    let error = pulled(&world).unwrap_err().to_string();
    assert!(error.contains("model.safetensors arrived damaged"), "{error}");
    assert!(!blobs(&world).iter().any(|name| name.len() >= 64), "{:?}", blobs(&world));
}

/// hf-hub 1.0 neither resumed by range nor tried again after a body that broke off.
#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let weights = bytes(200_000, 3);
    let (world, _) = filled(&weights);
    world.hub.faults(Fault { method: "GET", path: "/blob/", after: 0, times: 2, wrong: Wrong::Truncate(50_000) });
    let pulled = pulled(&world).unwrap();
    assert_eq!(read(pulled.folder.join("model.safetensors")), weights);
    let ranges: Vec<_> = world.hub.asked("GET", "/blob/").into_iter().map(|asked| asked.range).collect();
    assert_eq!(ranges, [None, Some("bytes=50000-".into()), Some("bytes=100000-".into())]);
}

#[test]
fn another_process_goes_on_where_the_last_one_stopped() {
    let weights = bytes(200_000, 4);
    let (world, _) = filled(&weights);
    // Every answer breaks off at once, after the first part.
    world.hub.fault("GET", "/blob/", Wrong::Truncate(70_000));
    world.hub.faults(Fault { method: "GET", path: "/blob/", after: 0, times: 6, wrong: Wrong::Drop });
    pulled(&world).unwrap_err();
    assert!(blobs(&world).iter().any(|name| name.ends_with(".incomplete")));
    world.hub.forget();
    let pulled = pulled(&world).unwrap();
    assert_eq!(read(pulled.folder.join("model.safetensors")), weights);
    assert_eq!(world.hub.asked("GET", "/blob/")[0].range.as_deref(), Some("bytes=70000-"));
    assert!(!blobs(&world).iter().any(|name| name.ends_with(".incomplete")));
}

#[test]
fn a_damaged_beginning_and_a_server_without_ranges_are_survived() {
    let weights = bytes(100_000, 5);
    let (world, _) = filled(&weights);
    let first = pulled(&world).unwrap();
    let link = first.folder.join("model.safetensors");
    let blob = std::fs::canonicalize(&link).unwrap();
    for left in [b"damaged".to_vec(), vec![0; 100_000], vec![0; 200_000]] {
        std::fs::remove_file(&link).unwrap();
        std::fs::remove_file(&blob).unwrap();
        std::fs::write(format!("{}.incomplete", blob.display()), &left).unwrap();
        world.hub.faults(Fault { method: "GET", path: "/blob/", after: 0, times: 1, wrong: Wrong::NoRange });
        assert_eq!(pulled(&world).unwrap().fetched, 1);
        assert_eq!(read(&link), weights);
    }
}

#[test]
fn a_server_that_always_breaks_off_does_not_hold_us_for_ever() {
    let (world, _) = filled(&bytes(100_000, 5));
    world.hub.faults(Fault { method: "GET", path: "/resolve/", after: 0, times: 1000, wrong: Wrong::NoRange });
    world.hub.faults(Fault {
        method: "GET",
        path: "/blob/",
        after: 0,
        times: 1000,
        wrong: Wrong::Status(200, &[("content-length", "100000")], "short"),
    });
    let error = pulled(&world).unwrap_err().to_string();
    assert!(error.contains("model.safetensors"), "{error}");
    assert!(world.hub.asked("GET", "/blob/").len() < 20);
}

#[test]
fn what_passes_is_waited_for() {
    let weights = bytes(10_000, 6);
    let (world, _) = filled(&weights);
    let hub = &world.hub;
    for status in [408, 429, 500, 502, 503, 504] {
        hub.fault(
            "GET",
            "/revision/",
            Wrong::Status(status, if status == 429 { &[("retry-after", "0")] } else { &[] }, ""),
        );
    }
    hub.faults(Fault { method: "HEAD", path: "config.json", after: 0, times: 2, wrong: Wrong::Drop });
    // The rate limit's own word comes before Retry-After, which would be too long to wait for.
    let limit: &[(&str, &str)] = &[("ratelimit", "\"api\";r=0;t=0"), ("retry-after", "100000")];
    hub.fault("GET", "/blob/", Wrong::Status(429, limit, ""));
    hub.fault("GET", "README", Wrong::Slow(50));
    let error = pulled(&world).unwrap_err().to_string();
    assert!(error.contains("504"), "five repetitions, then the last failure: {error}");
    assert_eq!(hub.asked("GET", "/revision/").len(), 6);
    assert_eq!(read(pulled(&world).unwrap().folder.join("model.safetensors")), weights);
    // A status that does not pass is not repeated.
    hub.forget();
    hub.faults(Fault {
        method: "GET",
        path: "/revision/",
        after: 0,
        times: 9,
        wrong: Wrong::Status(400, &[], "{\"error\":\"no\"}"),
    });
    pulled(&world).unwrap_err();
    assert_eq!(hub.asked("GET", "/revision/").len(), 1);
}

#[test]
fn gzipped_files_without_a_length_and_listings_in_pages() {
    let (world, _) = filled(&bytes(10_000, 7));
    {
        let mut state = world.hub.state();
        (state.gzip, state.no_siblings, state.page) = (true, true, 2);
    }
    world.hub.fault("GET", "resolve-cache", Wrong::Truncate(9));
    let pulled = pulled(&world).unwrap();
    assert_eq!(pulled.files.len(), 4);
    assert_eq!(read(pulled.folder.join("README.md")), "# Ä model".as_bytes());
    assert_eq!(world.hub.asked("GET", "/tree/").len(), 3);
}

#[test]
fn private_gated_renamed_and_absent() {
    let (world, _) = filled(&bytes(1000, 1));
    let open =
        |client: Client, id: &str| pull(&client, &model(id), Want::Model, &Silent).map_err(|error| error.to_string());
    world.hub.state().repos.get_mut("models/owner/name").unwrap().private = true;
    let error = open(world.anonymous(), ID).unwrap_err();
    assert!(error.contains("owner/name") && error.contains("private") && error.contains("HF_TOKEN"), "{error}");
    assert_eq!(open(world.client(), ID).unwrap().fetched, 4);

    let (world, _) = filled(&bytes(1000, 1));
    world.hub.state().repos.get_mut("models/owner/name").unwrap().gated = true;
    let error = open(world.anonymous(), ID).unwrap_err();
    assert!(error.contains("gated") && error.contains("terms"), "{error}");
    open(world.client(), ID).unwrap();

    let (world, _) = filled(&bytes(1000, 1));
    world.hub.state().moved.insert("old/name".into(), ID.into());
    open(world.client(), "old/name").unwrap();
    assert_token_is_safe(&world.hub, &[]);

    let error = open(world.client(), "no/such").unwrap_err();
    assert!(error.contains("no model no/such"), "{error}");
    let error = open(world.client(), "owner/name@nowhere").unwrap_err();
    assert!(error.contains("no revision \"nowhere\""), "{error}");
    let bad = Settings { token: taper::hub::Token::parse("hf_wrong", "x").unwrap(), ..world.settings() };
    let error = open(Client::new(bad), ID).unwrap_err();
    assert!(error.contains("Invalid credentials") && !error.contains("hf_wrong"), "{error}");
}

#[test]
fn a_pickle_is_refused_with_the_reason() {
    let world = World::start();
    world.hub.put("a/pickle", &[("config.json", b"{}"), ("pytorch_model.bin", b"\x80\x02}q\x00.")]);
    world.hub.put("a/nothing", &[("README.md", b"x")]);
    let told = |id: &str| pull(&world.client(), &model(id), Want::Model, &Silent).unwrap_err().to_string();
    let error = told("a/pickle");
    assert!(
        error.contains("pytorch_model.bin") && error.contains("run any program") && error.contains("safetensors"),
        "{error}"
    );
    assert!(told("a/nothing").contains("config.json"));
    assert!(world.hub.asked("GET", "/resolve/").is_empty());
}

#[test]
fn shards_come_by_their_index() {
    let world = World::start();
    let index = br#"{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    let (one, two) = (bytes(5000, 1), bytes(6000, 2));
    let mut files: Vec<(&str, &[u8])> = vec![
        ("config.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", &one),
        ("model-00002-of-00002.safetensors", &two),
        ("model-00003-of-00003.safetensors", &two),
    ];
    world.hub.put("a/sharded", &files);
    let pulled = pull(&world.client(), &model("a/sharded"), Want::Model, &Silent).unwrap();
    assert_eq!(pulled.files.len(), 4);
    assert_eq!(read(pulled.folder.join("model-00002-of-00002.safetensors")), two);
    files.remove(3);
    world.hub.put("a/torn", &files);
    let error = pull(&world.client(), &model("a/torn"), Want::Model, &Silent).unwrap_err().to_string();
    assert!(error.contains("incomplete") && error.contains("00002-of-00002"), "{error}");
    // An index cannot lead out of the folder.
    files[1].1 = br#"{"weight_map": {"a": "../../x.safetensors"}}"#;
    world.hub.put("a/evil", &files);
    pull(&world.client(), &model("a/evil"), Want::Model, &Silent).unwrap_err();
}

/// hf-hub 1.0 does not know HF_HUB_OFFLINE.
#[test]
fn without_a_connection_the_cache_serves_if_it_is_whole() {
    let (world, commit) = filled(&bytes(1000, 1));
    let offline = || Client::new(Settings { offline: true, ..world.settings() });
    let error = pull(&offline(), &model(ID), Want::Model, &Silent).unwrap_err().to_string();
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    pulled(&world).unwrap();
    world.hub.forget();
    assert_eq!(pull(&offline(), &model(ID), Want::Model, &Silent).unwrap().commit, commit);
    assert!(world.hub.all_asked().is_empty());
    // A hub that is out of order is as good as none.
    world.hub.faults(Fault { method: "GET", path: "/api/", after: 0, times: 99, wrong: Wrong::Status(503, &[], "") });
    assert_eq!(pulled(&world).unwrap().commit, commit);
    // But not for what was never whole.
    let link = world.home.path().join(format!("hub/models--owner--name/snapshots/{commit}/model.safetensors"));
    std::fs::remove_file(link).unwrap();
    pulled(&world).unwrap_err();
    pull(&offline(), &model(ID), Want::Model, &Silent).unwrap_err();
}

#[test]
fn a_server_that_names_bad_paths_or_commits_writes_nothing() {
    let world = World::start();
    world.hub.put(ID, &[("config.json", b"{}"), ("model.safetensors", b"x"), ("../../../evil", b"x")]);
    assert!(!pulled(&world).unwrap().files.iter().any(|file| file.contains("evil")));
    let world = World::start();
    world.hub.put(ID, &[("config.json", b"{}"), ("model.safetensors", b"x")]);
    world.hub.fault("GET", "/revision/", Wrong::Status(200, &[], r#"{"sha": "../../x", "siblings": []}"#));
    pulled(&world).unwrap_err();
    let etag: &[(&str, &str)] = &[("etag", "\"../../../evil\""), ("x-repo-commit", "0")];
    world.hub.fault("HEAD", "config.json", Wrong::Status(200, etag, ""));
    pulled(&world).unwrap_err();
    // A hub that repeats the token in its message, and one that leads in circles.
    let echo = r#"{"error": "bad token hf_test_0123456789"}"#;
    world.hub.fault("GET", "/revision/", Wrong::Status(403, &[], echo));
    let error = pulled(&world).unwrap_err().to_string();
    assert!(error.contains("bad token [token]"), "{error}");
    let here: &[(&str, &str)] = &[("location", "/api/models/owner/name/revision/main")];
    world.hub.faults(Fault {
        method: "GET",
        path: "/revision/",
        after: 0,
        times: 99,
        wrong: Wrong::Status(307, here, ""),
    });
    let error = pulled(&world).unwrap_err().to_string();
    assert!(error.contains("redirected without end"), "{error}");
}
