//! Large objects: the LFS batch, basic and multipart transfers, and downloads by range. No request here may carry a token.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{Request, Response, hex};

/// A multipart upload under way.
#[derive(Clone, Debug)]
struct Session {
    oid: String,
    parts: BTreeMap<usize, (String, Vec<u8>)>,
    size: usize,
}

/// The storage behind the hub.
#[derive(Default)]
pub struct Storage {
    url: String,
    hub: String,
    /// Contents by SHA-256.
    pub objects: BTreeMap<String, Vec<u8>>,
    sessions: BTreeMap<usize, Session>,
    /// Objects of more bytes than this go in parts.
    pub multipart_over: usize,
    /// Bytes of a part.
    pub chunk: usize,
    /// A batch gives an object that is under way the session it has; otherwise a new one.
    pub keep_sessions: bool,
    /// Who offers Xet gets it.
    pub xet: bool,
    /// Xorbs that came by Xet, in the order of coming.
    xorbs: Vec<Vec<u8>>,
    /// Objects are verified by a request of their own.
    pub verify: bool,
    /// A basic transfer must bring a header that the batch told, next to which the batch repeats the token.
    pub wants_header: bool,
    next: usize,
    signature: usize,
}

impl Storage {
    pub fn new(url: String, hub: String) -> Storage {
        Storage { url, hub, multipart_over: usize::MAX, chunk: 1 << 20, ..Storage::default() }
    }

    /// Where an object can be fetched.
    pub fn address(&mut self, oid: &str) -> String {
        self.signature += 1;
        format!("{}/blob/{oid}?X-Amz-Signature=s{}", self.url, self.signature)
    }

    /// All sessions run out.
    pub fn expire(&mut self) {
        self.sessions.clear();
    }

    /// The answer to a batch for upload.
    pub fn batch(&mut self, body: &Value) -> Response {
        if body["operation"] != "upload" || body["hash_algo"] != "sha256" {
            return Response::error(422, "", "only uploads by sha256");
        }
        let objects = body["objects"].as_array().cloned().unwrap_or_default();
        if objects.len() > 256 {
            return Response::error(413, "", "too many objects");
        }
        let offered = body["transfers"].as_array().is_some_and(|all| all.iter().any(|one| one == "xet"));
        if self.xet && offered {
            let answers: Vec<Value> =
                objects.iter().map(|object| json!({"oid": object["oid"], "size": object["size"]})).collect();
            return Response::json(200, json!({"transfer": "xet", "objects": answers}));
        }
        let answers: Vec<Value> = objects.iter().map(|object| self.actions(object)).collect();
        Response::json(200, json!({"transfer": "basic", "objects": answers}))
            .with("content-type", "application/vnd.git-lfs+json")
    }

    fn actions(&mut self, object: &Value) -> Value {
        let (Some(oid), Some(size)) = (object["oid"].as_str(), object["size"].as_u64()) else {
            return json!({"oid": "", "size": 0, "error": {"code": 422, "message": "no oid or size"}});
        };
        let size = size as usize;
        if self.objects.contains_key(oid) {
            return json!({"oid": oid, "size": size});
        }
        self.signature += 1;
        let signature = self.signature;
        let mut actions = if size > self.multipart_over {
            let known = self.sessions.iter().find(|(_, session)| session.oid == oid).map(|(id, _)| *id);
            let id = match known.filter(|_| self.keep_sessions) {
                Some(id) => id,
                None => {
                    self.next += 1;
                    let session = Session { oid: oid.into(), parts: BTreeMap::new(), size };
                    self.sessions.insert(self.next, session);
                    self.next
                }
            };
            let mut header = json!({"chunk_size": self.chunk.to_string()});
            for part in 1..=size.div_ceil(self.chunk) {
                // Of two widths, as the Hub's, so that order by text is not order by number.
                let url = format!("{}/part/{oid}/{part}?uploadId={id}&X-Amz-Signature=s{signature}", self.url);
                header[part.to_string()] = json!(url);
            }
            let href = format!("{}/api/complete_multipart?uploadId={id}&signature=x", self.hub);
            json!({"upload": {"href": href, "header": header}})
        } else {
            let mut upload = json!({"href": format!("{}/basic/{oid}?X-Amz-Signature=s{signature}", self.url)});
            if self.wants_header {
                upload["header"] = json!({"X-Checksum": oid, "Authorization": format!("Bearer {}", super::TOKEN)});
            }
            json!({ "upload": upload })
        };
        if self.verify {
            actions["verify"] = json!({"href": format!("{}/api/verify", self.hub)});
        }
        json!({"oid": oid, "size": size, "authenticated": true, "actions": actions})
    }

    /// Puts the parts of an upload together.
    pub fn complete(&mut self, request: &Request) -> Response {
        let id = request.query.get("uploadId").and_then(|id| id.parse::<usize>().ok()).unwrap_or(0);
        let Some(session) = self.sessions.get(&id) else { return Response::error(404, "", "no such upload") };
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let mut bytes = Vec::new();
        for (index, part) in body["parts"].as_array().into_iter().flatten().enumerate() {
            let stored = session.parts.get(&(index + 1));
            match stored.filter(|(etag, _)| part["partNumber"] == index + 1 && part["etag"] == **etag) {
                Some((_, part)) => bytes.extend_from_slice(part),
                None => return Response::error(400, "", "InvalidPart"),
            }
        }
        if bytes.len() != session.size || hex(&Sha256::digest(&bytes)) != session.oid || body["oid"] != *session.oid {
            return Response::error(422, "", "the parts are not the object");
        }
        let oid = session.oid.clone();
        self.objects.insert(oid, bytes);
        self.sessions.remove(&id);
        Response::json(200, json!({"success": true}))
    }

    /// The permission to write by Xet.
    pub fn xet_token(&self) -> Response {
        Response::json(200, json!({"accessToken": CAS_TOKEN, "exp": 4_000_000_000u64, "casUrl": self.url}))
    }

    /// What a storage of Xet is asked: chunks that it may have, xorbs (chunks, packed), shards (what files are made of).
    fn xet(&mut self, request: &Request, parts: &[&str]) -> Response {
        if request.header("authorization") != Some(&format!("Bearer {CAS_TOKEN}")) {
            return Response::new(401, "");
        }
        match (request.method.as_str(), parts) {
            ("POST", ["v1", "xorbs", _, _]) => {
                self.xorbs.push(request.body.clone());
                Response::json(200, json!({"was_inserted": true}))
            }
            ("POST", ["v1", "shards"]) => {
                let bytes: Vec<u8> = self.xorbs.iter().flat_map(|xorb| chunks(xorb)).collect();
                let hash = Sha256::digest(&bytes);
                // The shard names the SHA-256 of the file, its words in the order of bytes of the machine.
                let words: Vec<u8> = hash.chunks(8).flat_map(|word| word.iter().rev()).copied().collect();
                let names = |needle: &[u8]| request.body.windows(32).any(|window| window == needle);
                if !names(&hash) && !names(&words) {
                    return Response::new(400, "the shard is of another file than the xorbs");
                }
                self.objects.insert(hex(&hash), bytes);
                Response::json(200, json!({"result": 1}))
            }
            // Neither grants nor the second version of shards; no chunk is known.
            _ => Response::new(404, ""),
        }
    }

    /// Answers what storage itself is asked.
    pub fn answer(&mut self, request: &Request) -> Response {
        let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        if matches!(parts[0], "v1" | "v2") {
            return self.xet(request, &parts);
        }
        if request.headers.contains_key("authorization") {
            return Response::new(400, "<Error><Message>Only one auth mechanism allowed</Message></Error>");
        }
        if !request.query.contains_key("X-Amz-Signature") {
            return Response::new(403, "<Error>AccessDenied</Error>");
        }
        match (request.method.as_str(), &parts[..]) {
            ("PUT", ["basic", oid]) => {
                if self.wants_header && request.header("x-checksum") != Some(oid) {
                    return Response::new(400, "<Error>InvalidRequest</Error>");
                }
                if hex(&Sha256::digest(&request.body)) != *oid {
                    return Response::new(400, "<Error>BadDigest</Error>");
                }
                self.objects.insert(oid.to_string(), request.body.clone());
                Response::new(200, "").with("etag", format!("\"{}\"", hex(&Sha1::digest(&request.body))))
            }
            ("PUT", ["part", oid, part]) => {
                let id = request.query.get("uploadId").and_then(|id| id.parse::<usize>().ok()).unwrap_or(0);
                let (Some(session), Ok(part)) = (self.sessions.get_mut(&id), part.parse::<usize>()) else {
                    return Response::new(404, "<Error>NoSuchUpload</Error>");
                };
                let begin = (part - 1) * self.chunk;
                if session.oid != *oid || request.body.len() != self.chunk.min(session.size - begin) {
                    return Response::new(400, "<Error>EntityTooSmall</Error>");
                }
                let etag = format!("\"{}-{id}\"", hex(&Sha1::digest(&request.body)));
                session.parts.insert(part, (etag.clone(), request.body.clone()));
                Response::new(200, "").with("etag", etag)
            }
            ("GET" | "HEAD", ["blob", oid]) => match self.objects.get(*oid) {
                Some(bytes) => ranged(request, bytes).with("etag", "\"s3-multipart-etag-7\""),
                None => Response::new(404, "<Error>NoSuchKey</Error>"),
            },
            _ => Response::new(405, "<Error>MethodNotAllowed</Error>"),
        }
    }
}

/// The permission of the storage of Xet, which is not the Hub's token.
pub const CAS_TOKEN: &str = "cas_test_9876543210";

/// The chunks of a xorb, put together. Each has a header of eight bytes: version 0, stored length (24 bits, little-endian),
/// packing (0 is none), length. What follows the chunks is an index.
fn chunks(xorb: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = xorb;
    while let [0, a, b, c, packing, _, _, _, after @ ..] = rest {
        assert_eq!(*packing, 0, "bytes that nothing can pack are not packed");
        let length = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c) << 16;
        let Some(chunk) = after.get(..length) else { break };
        bytes.extend_from_slice(chunk);
        rest = &after[length..];
    }
    bytes
}

/// The part of a file that `Range` asks for.
pub fn ranged(request: &Request, bytes: &[u8]) -> Response {
    let range = request.header("range").and_then(|range| range.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.split_once('-')) else { return Response::new(200, bytes) };
    let from: usize = from.parse().unwrap_or(0);
    if from >= bytes.len() {
        return Response::new(416, "").with("content-range", format!("bytes */{}", bytes.len()));
    }
    let to = to.parse().map_or(bytes.len() - 1, |to: usize| to.min(bytes.len() - 1));
    Response::new(206, &bytes[from..=to]).with("content-range", format!("bytes {from}-{to}/{}", bytes.len()))
}
