//! `taper serve` as a process: it says where it is, answers, and ends cleanly by a signal.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::program;

use serde_json::json;

use super::client::{post, receive, send};

/// A model of bytes in a folder of its own.
pub struct Shop(pub tempfile::TempDir);

impl Shop {
    pub fn new() -> Shop {
        let folder = tempfile::tempdir().unwrap();
        let config = "[model]\nn_layer = 1\nn_head = 2\nn_embd = 32\ncontext_length = 120\n[tokenizer]\nkind = \"bytes\"\n\
            [data]\ntext = [\"none.txt\"]\n[train]\nmicro_batch = 2\nmax_steps = 1\n";
        std::fs::write(folder.path().join("model.toml"), config).unwrap();
        let shop = Shop(folder);
        let made = taper(&["model", "init", &shop.path("model.toml"), "--out", &shop.model()]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        shop
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    pub fn model(&self) -> String {
        self.path("model")
    }
}

pub fn taper(arguments: &[&str]) -> Command {
    let mut command = program::taper(".");
    command.args(arguments).env_remove("TAPER_API_KEY");
    command
}

/// A server, its address, and the lines that it says.
fn serving(shop: &Shop, more: &[&str]) -> (Child, SocketAddr, std::io::Lines<BufReader<std::process::ChildStderr>>) {
    let model = shop.model();
    let arguments = [&["serve", &model, "--bind", "127.0.0.1:0"], more].concat();
    let mut child =
        taper(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let address = lines.by_ref().map(Result::unwrap).find_map(|line| {
        let rest = line.split_once("http://")?.1;
        rest.split(": ").next()?.parse().ok()
    });
    (child, address.expect("it says where it is"), lines)
}

#[test]
fn it_serves_until_a_signal_and_exits_with_0() {
    let shop = Shop::new();
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let (mut child, address, lines) = serving(&shop, &["--name", "mine"]);
        let reply = receive(send(
            address,
            &post("/v1/completions", &json!({"model": "mine", "prompt": [1, 2], "max_tokens": 3})),
        ));
        assert_eq!((reply.status, &reply.json()["usage"]["completion_tokens"]), (200, &json!(3)));
        let chat = post("/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "a"}]}));
        let reply = receive(send(address, &chat));
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!("no_chat_template")));
        // SAFETY: the process is our own child, not waited for yet, so its id is its own.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert!(lines.map(Result::unwrap).any(|line| line.starts_with("ending")));
    }
}

/// How many threads a process has, where the system tells.
fn threads(child: &Child) -> Option<usize> {
    std::fs::read_dir(format!("/proc/{}/task", child.id())).ok().map(Iterator::count)
}

#[test]
fn a_crowd_leaves_no_threads_behind() {
    let shop = Shop::new();
    let (mut child, address, _lines) = serving(&shop, &["--slots", "3"]);
    let crowd = || {
        std::thread::scope(|scope| {
            for i in 0..60 {
                let body = json!({"prompt": format!("text {i}"), "max_tokens": 5 + i, "seed": i, "stream": i % 2 == 0});
                scope.spawn(move || {
                    let stream = send(address, &post("/v1/completions", &body));
                    if i % 3 != 0 {
                        assert_eq!(receive(stream).status, 200);
                    }
                });
            }
        });
    };
    crowd();
    let before = threads(&child);
    crowd();
    // Threads that check requests stay for a second; those of the engine stay.
    let start = std::time::Instant::now();
    while threads(&child) > before {
        assert!(start.elapsed().as_secs() < 30, "{:?} threads, {before:?} before", threads(&child));
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn an_open_address_needs_a_key_and_a_key_is_not_shown() {
    let shop = Shop::new();
    let model = shop.model();
    let open = ["serve", &model, "--bind", "0.0.0.0:0"];
    let refused = taper(&open).output().unwrap();
    let told = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{told}");
    assert!(told.contains("TAPER_API_KEY"), "{told}");
    let help = taper(&["serve", "--help"]).env("TAPER_API_KEY", "shown-to-nobody").output().unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains("shown-to-nobody"));
    // A port that is taken is an error with its address.
    let (mut child, address, _lines) = serving(&shop, &[]);
    let taken = taper(&["serve", &model, "--bind", &address.to_string()]).output().unwrap();
    assert_eq!(taken.status.code(), Some(1));
    assert!(String::from_utf8(taken.stderr).unwrap().contains(&address.to_string()));
    child.kill().unwrap();
    child.wait().unwrap();
}
