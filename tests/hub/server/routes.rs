//! The Hub's API: repositories, listings, files, upload modes and commits.

use std::collections::BTreeMap;
use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::storage::ranged;
use super::{Commit, Entry, Request, Response, State, TOKEN, hex, unquote};

/// Whether the Hub wants a file in large file storage.
pub fn is_lfs(path: &str, size: usize, sample: &[u8]) -> bool {
    let known = [".safetensors", ".bin", ".pt", ".gguf"].iter().any(|end| path.ends_with(end));
    size > 0 && (known || size > 10 << 20 || sample.contains(&0))
}

/// The answer to a request.
pub fn answer(state: &mut State, request: &Request) -> Response {
    for (old, new) in &state.moved {
        if request.path.contains(&format!("/{old}/")) || request.path.ends_with(&format!("/{old}")) {
            let query: Vec<String> = request.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
            let location = format!("{}?{}", request.path.replacen(old, new, 1), query.join("&"));
            return Response::new(307, "").with("location", location.trim_end_matches('?'));
        }
    }
    let authorized = request.header("authorization").is_some_and(|given| given == format!("Bearer {TOKEN}"));
    if request.header("authorization").is_some() && !authorized {
        return Response::error(401, "", "Invalid credentials in Authorization header");
    }
    let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let method = request.method.as_str();
    let json_body = || serde_json::from_slice::<Value>(&request.body).unwrap_or_default();
    match (method, &path[..]) {
        ("POST", ["api", "repos", "create"]) => create(state, request, &json_body(), authorized),
        ("POST", ["api", "validate-yaml"]) => validate(&json_body()),
        ("POST", ["api", "complete_multipart"]) => match request.header("authorization") {
            Some(_) => Response::error(400, "", "this address is signed; it takes no token"),
            None => state.storage.complete(request),
        },
        ("POST", ["api", "verify"]) if !authorized => Response::error(401, "", "who are you?"),
        ("POST", ["api", "verify"]) => match state.storage.objects.get(json_body()["oid"].as_str().unwrap_or_default())
        {
            Some(bytes) if json_body()["size"] == bytes.len() => Response::json(200, json!({})),
            _ => Response::error(404, "", "there is no such object"),
        },
        ("GET", ["api", "whoami-v2"]) if authorized => {
            Response::json(200, json!({"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}}))
        }
        (_, ["api", "resolve-cache", kind, owner, name, sha, file @ ..]) => {
            let key = format!("{kind}/{owner}/{name}");
            resolve(state, request, &key, &unquote(sha), &unquote(&file.join("/")), authorized, true)
        }
        (_, ["api", kind @ ("models" | "datasets"), owner, name, rest @ ..]) => {
            let key = format!("{kind}/{owner}/{name}");
            if let Some(refusal) = refuse(state, &key, authorized, method != "GET") {
                return refusal;
            }
            let revision = rest.get(1).map_or_else(|| "main".into(), |revision| unquote(revision));
            match (method, rest.first().copied()) {
                ("GET", None | Some("revision")) => info(state, &key, &revision),
                ("GET", Some("tree")) => tree(state, request, &key, &revision, &rest[2..].join("/")),
                ("GET", Some("xet-write-token")) if !authorized => Response::error(401, "", "who are you?"),
                ("GET", Some("xet-write-token")) => state.storage.xet_token(),
                ("POST", Some("preupload")) => preupload(state, &key, &revision, &json_body()),
                ("POST", Some("commit")) => commit(state, request, &key, &revision),
                _ => Response::error(404, "", "there is no such page"),
            }
        }
        ("POST", ["datasets", owner, name, "info", "lfs", "objects", "batch"]) => {
            batch(state, &format!("datasets/{owner}/{}", name.trim_end_matches(".git")), &json_body(), authorized)
        }
        ("POST", [owner, name, "info", "lfs", "objects", "batch"]) => {
            batch(state, &format!("models/{owner}/{}", name.trim_end_matches(".git")), &json_body(), authorized)
        }
        ("GET" | "HEAD", ["datasets", owner, name, "resolve", revision, file @ ..]) => {
            let key = format!("datasets/{owner}/{name}");
            resolve(state, request, &key, &unquote(revision), &unquote(&file.join("/")), authorized, false)
        }
        ("GET" | "HEAD", [owner, name, "resolve", revision, file @ ..]) => {
            let key = format!("models/{owner}/{name}");
            resolve(state, request, &key, &unquote(revision), &unquote(&file.join("/")), authorized, false)
        }
        _ => Response::error(404, "", "there is no such page"),
    }
}

/// The refusal for who may not read or write a repository.
fn refuse(state: &State, key: &str, authorized: bool, writes: bool) -> Option<Response> {
    let Some(repo) = state.repos.get(key).filter(|repo| authorized || !repo.private) else {
        let status = if authorized { 404 } else { 401 };
        return Some(Response::error(status, "RepoNotFound", "Repository not found"));
    };
    let _ = repo;
    (writes && !authorized).then(|| Response::error(401, "", "Invalid username or password."))
}

fn create(state: &mut State, request: &Request, body: &Value, authorized: bool) -> Response {
    if !authorized {
        return Response::error(401, "", "Invalid username or password.");
    }
    let kind = body["type"].as_str().unwrap_or("model");
    let (owner, name) = (body["organization"].as_str().unwrap_or("me"), body["name"].as_str().unwrap_or_default());
    if owner == "forbidden" {
        return Response::error(403, "", "You don't have the rights to create a model under this namespace");
    }
    let key = format!("{kind}s/{owner}/{name}");
    let url = json!({"url": format!("http://{}/{owner}/{name}", request.header("host").unwrap_or_default()), "error": "You already created this repo"});
    if state.repos.contains_key(&key) {
        return Response::json(409, url);
    }
    let repo = state.repos.entry(key).or_default();
    repo.private = body["visibility"] == "private";
    let attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n".to_vec();
    repo.add("main", BTreeMap::from([(".gitattributes".into(), Entry::Regular(attributes))]), "initial commit");
    Response::json(200, json!({"url": url["url"]}))
}

/// The real rules are long; this refuses a licence that is a list of lists, as it does.
fn validate(body: &Value) -> Response {
    let content = body["content"].as_str().unwrap_or_default();
    let front = content.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map_or("", |(front, _)| front);
    if front.contains("license: [[") {
        let errors = json!([{"message": "\"license\" must be a string"}]);
        return Response::json(400, json!({"errors": errors, "warnings": []}));
    }
    let warnings = match front.is_empty() {
        true => json!([{"message": "empty or missing yaml metadata in repo card"}]),
        false => json!([]),
    };
    Response::json(200, json!({"errors": [], "warnings": warnings}))
}

fn no_revision(revision: &str) -> Response {
    Response::error(404, "RevisionNotFound", &format!("Invalid rev id: {revision}"))
}

fn info(state: &State, key: &str, revision: &str) -> Response {
    let repo = &state.repos[key];
    let Some(commit) = repo.at(revision) else { return no_revision(revision) };
    let siblings: Vec<Value> = commit.files.keys().map(|path| json!({ "rfilename": path })).collect();
    let id = key.split_once('/').map_or(key, |(_, id)| id);
    let mut body = json!({
        "_id": "0", "id": id, "modelId": id, "sha": commit.sha, "private": repo.private, "gated": repo.gated,
        "disabled": false, "downloads": 0, "likes": 0, "tags": [], "siblings": siblings,
    });
    if state.no_siblings {
        body["siblings"] = json!([]);
    }
    Response::json(200, body)
}

fn git_oid(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

fn tree(state: &State, request: &Request, key: &str, revision: &str, folder: &str) -> Response {
    let Some(commit) = state.repos[key].at(revision) else { return no_revision(revision) };
    let folder = unquote(folder);
    let files: Vec<_> =
        commit.files.iter().filter(|(path, _)| folder.is_empty() || path.starts_with(&format!("{folder}/"))).collect();
    if !folder.is_empty() && files.is_empty() {
        return Response::error(404, "EntryNotFound", &format!("{folder} does not exist on \"{revision}\""));
    }
    let from: usize = request.query.get("cursor").and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
    let entries: Vec<Value> = files
        .iter()
        .skip(from)
        .take(state.page)
        .map(|(path, entry)| match entry {
            Entry::Regular(bytes) => json!({"type": "file", "path": path, "size": bytes.len(), "oid": git_oid(bytes)}),
            Entry::Lfs { oid, size } => {
                let lfs = json!({"oid": oid, "size": size, "pointerSize": 134});
                json!({"type": "file", "path": path, "size": size, "oid": git_oid(oid.as_bytes()), "lfs": lfs})
            }
        })
        .collect();
    let response = Response::json(200, json!(entries));
    let next = from + state.page;
    if next >= files.len() {
        return response;
    }
    // An address of its own origin, in full.
    let host = request.header("host").unwrap_or_default();
    response.with(
        "link",
        match state.quirks.relative {
            true => format!("<?recursive=true>; rel=first, <?recursive=true&cursor={next}>; rel=next"),
            false => format!("<http://{host}{}?recursive=true&cursor={next}>; rel=\"next\"", request.path),
        },
    )
}

fn resolve(
    state: &mut State,
    request: &Request,
    key: &str,
    revision: &str,
    path: &str,
    authorized: bool,
    cached: bool,
) -> Response {
    if let Some(refusal) = refuse(state, key, authorized, false) {
        return refusal;
    }
    let repo = &state.repos[key];
    if repo.gated && !authorized {
        return Response::error(
            401,
            "GatedRepo",
            &format!("Access to model {key} is restricted. You must be authenticated."),
        );
    }
    let Some(commit) = repo.at(revision) else { return no_revision(revision) };
    let sha = commit.sha.clone();
    match commit.files.get(path).cloned() {
        None => Response::error(404, "EntryNotFound", "Entry not found").with("x-repo-commit", sha),
        Some(Entry::Lfs { oid, size }) => {
            let location = state.storage.address(&oid);
            Response::new(302, "")
                .with("location", location)
                .with("x-repo-commit", sha)
                .with("x-linked-size", size.to_string())
                .with("x-linked-etag", format!("\"{oid}\""))
                .with("etag", "\"etag-of-the-redirect\"")
        }
        // Small files come by a redirect within the Hub.
        Some(Entry::Regular(_)) if !cached => {
            let quoted = request
                .path
                .split("/resolve/")
                .nth(1)
                .and_then(|rest| rest.split_once('/'))
                .map_or("", |(_, file)| file);
            let up = match state.quirks.relative {
                true => "../".repeat(request.path.matches('/').count() - 1),
                false => "/".into(),
            };
            Response::new(307, "")
                .with("location", format!("{up}api/resolve-cache/{key}/{sha}/{quoted}"))
                .with("x-repo-commit", sha)
        }
        Some(Entry::Regular(bytes)) => {
            let response = match state.gzip {
                true => {
                    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                    encoder.write_all(&bytes).unwrap();
                    let packed = encoder.finish().unwrap();
                    let length = packed.len().to_string();
                    let response = Response::new(200, packed).with("content-encoding", "gzip");
                    if state.quirks.gzip_length { response.with("content-length", length) } else { response }
                }
                false if state.quirks.head_of_length_0 && request.method == "HEAD" => Response::new(200, ""),
                false => ranged(request, &bytes),
            };
            let etag = if state.quirks.foreign_etags { "v1-of-a-proxy".into() } else { git_oid(&bytes) };
            response.with("etag", format!("W/\"{etag}{}\"", state.quirks.etag_suffix)).with("x-repo-commit", sha)
        }
    }
}

fn oid_of(entry: &Entry) -> String {
    match entry {
        Entry::Regular(bytes) => git_oid(bytes),
        Entry::Lfs { oid, .. } => oid.clone(),
    }
}

fn preupload(state: &State, key: &str, revision: &str, body: &Value) -> Response {
    let commit = state.repos[key].at(revision);
    if commit.is_none() && revision != "main" {
        return no_revision(revision);
    }
    let files = body["files"].as_array().cloned().unwrap_or_default();
    if files.len() > 256 {
        return Response::error(413, "", "too many files");
    }
    let own = commit.and_then(|commit| commit.files.get(".gitignore"));
    let ignore = match (body["gitIgnore"].as_str(), own) {
        (Some(text), _) => text.to_string(),
        (None, Some(Entry::Regular(bytes))) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let answers: Vec<Value> = files
        .iter()
        .map(|file| {
            let path = file["path"].as_str().unwrap_or_default();
            let sample = STANDARD.decode(file["sample"].as_str().unwrap_or_default()).unwrap_or_default();
            // The Hub does not look at the size 0, either.
            let lfs = is_lfs(path, file["size"].as_u64().unwrap_or(0).max(1) as usize, &sample);
            json!({
                "path": path,
                "uploadMode": if lfs { "lfs" } else { "regular" },
                "shouldIgnore": ignore.lines().any(|line| line == path),
                "oid": commit.and_then(|commit| commit.files.get(path)).map(oid_of),
            })
        })
        .collect();
    Response::json(200, json!({ "files": answers }))
}

fn batch(state: &mut State, key: &str, body: &Value, authorized: bool) -> Response {
    match refuse(state, key, authorized, true) {
        Some(refusal) => refusal,
        None => state.storage.batch(body),
    }
}

fn commit(state: &mut State, request: &Request, key: &str, revision: &str) -> Response {
    let lines: Vec<Value> =
        request.body.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let repo = &state.repos[key];
    let head: Option<Commit> = repo.at(revision).cloned();
    let mut files = head.as_ref().map(|commit| commit.files.clone()).unwrap_or_default();
    let mut summary = String::new();
    for line in &lines {
        let value = &line["value"];
        let path = value["path"].as_str().unwrap_or_default().to_string();
        match line["key"].as_str().unwrap_or_default() {
            "header" => {
                summary = value["summary"].as_str().unwrap_or_default().to_string();
                if let Some(parent) = value["parentCommit"].as_str()
                    && head.as_ref().is_none_or(|head| head.sha != parent)
                {
                    return Response::error(412, "", "A commit has happened since. Please refresh and try again.");
                }
            }
            "file" => match STANDARD.decode(value["content"].as_str().unwrap_or_default()) {
                Ok(bytes) => drop(files.insert(path, Entry::Regular(bytes))),
                Err(_) => return Response::error(400, "", "this is not base64"),
            },
            "lfsFile" => {
                let oid = value["oid"].as_str().unwrap_or_default().to_string();
                match state.storage.objects.get(&oid) {
                    Some(bytes) => drop(files.insert(path, Entry::Lfs { oid, size: bytes.len() })),
                    None => return Response::error(400, "", &format!("the LFS object of {path} is not in storage")),
                }
            }
            "deletedFile" => {
                if files.remove(&path).is_none() {
                    return Response::error(400, "", &format!("there is no {path} to delete"));
                }
            }
            other => return Response::error(400, "", &format!("unknown operation {other:?}")),
        }
    }
    let pr = request.query.contains_key("create_pr");
    let count = repo.refs.keys().filter(|name| name.starts_with("refs/pr/")).count();
    let branch = if pr { format!("refs/pr/{}", count + 1) } else { revision.to_string() };
    let host = request.header("host").unwrap_or_default();
    let Some(repo) = state.repos.get_mut(key) else { return no_revision(revision) };
    let sha = repo.add(&branch, files, &summary);
    let id = key.split_once('/').map_or(key, |(_, id)| id);
    let mut body = json!({"success": true, "commitOid": sha, "commitUrl": format!("http://{host}/{id}/commit/{sha}"), "hookOutput": ""});
    if pr {
        body["pullRequestUrl"] = json!(format!("http://{host}/{id}/discussions/{}", count + 1));
    }
    Response::json(200, body)
}
