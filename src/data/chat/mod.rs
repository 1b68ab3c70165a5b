//! Chat templates: from messages to the text that a chat model was trained on.
//!
//! A model's folder says how its conversations are written: a Jinja template in `chat_template.jinja`, or under
//! `chat_template` in `tokenizer_config.json`. [`ChatTemplate`] renders it as transformers' `apply_chat_template` does,
//! with the same options of Jinja (`trim_blocks`, `lstrip_blocks`, loop controls), the same variables (`messages`,
//! `add_generation_prompt`, `tools` and `documents` as none, and the special tokens: `bos_token`, `eos_token`, ...) and the
//! same functions (`raise_exception`, `strftime_now`, `tojson` as Python's `json.dumps` writes it).
//!
//! A template is a program from a stranger: it sees nothing but the messages, and it may execute `FUEL` instructions.

pub mod conversation;
pub mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde::{Deserialize, Serialize};

use super::tokenizer::Tokenizer;
use crate::error::{Error, Result};

/// Instructions of the template engine that one rendering may take: far more than the longest conversation needs.
const FUEL: u64 = 20_000_000;

/// The file that holds a template alone, and the one that holds it among other things.
const TEMPLATE_FILE: &str = "chat_template.jinja";
const CONFIG_FILE: &str = "tokenizer_config.json";

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user` or `assistant`, in most templates.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: &str, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into() }
    }
}

/// A chat template, ready to render: see the module's story.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: PathBuf,
    /// Special tokens by the names that templates use: `bos_token`, `eos_token`, ...
    tokens: BTreeMap<String, String>,
}

/// The mark of an error that a template raised on purpose.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

impl ChatTemplate {
    /// The template of a model folder, `None` if it has none (a base model).
    ///
    /// # Errors
    /// `Io` or `Data` if a file cannot be read or the template is not valid Jinja.
    pub fn load(folder: &Path) -> Result<Option<ChatTemplate>> {
        let config_file = folder.join(CONFIG_FILE);
        let config = read_json(&config_file)?;
        let alone = folder.join(TEMPLATE_FILE);
        let (source, origin) = match read_text(&alone)? {
            Some(source) => (source, alone),
            None => match config.as_ref().map(|config| named_template(config, &config_file)).transpose()?.flatten() {
                Some(source) => (source, config_file),
                None => return Ok(None),
            },
        };
        Self::new(source, origin, special_tokens(folder)?).map(Some)
    }

    /// The template in a file, with the special tokens of a model folder.
    ///
    /// # Errors
    /// As [`ChatTemplate::load`], and if the file is not there.
    pub fn load_file(path: &Path, folder: &Path) -> Result<ChatTemplate> {
        let source = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::new(source, path.to_path_buf(), special_tokens(folder)?)
    }

    /// A template from its text; an empty `bos` or `eos` is a token that the vocabulary has not.
    ///
    /// # Errors
    /// `Data` if the text is not valid Jinja.
    pub fn from_source(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate> {
        let tokens = [("bos_token", bos), ("eos_token", eos)];
        let tokens = tokens.into_iter().filter(|(_, token)| !token.is_empty());
        let tokens = tokens.map(|(name, token)| (name.to_string(), token.to_string())).collect();
        Self::new(source.to_string(), PathBuf::from("chat template"), tokens)
    }

    fn new(source: String, origin: PathBuf, tokens: BTreeMap<String, String>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        let wrong = |error| explain(&origin, &error);
        let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(wrong)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.set_debug(false);
        environment.add_filter("tojson", to_json);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_template_owned("chat", without_generation_tags(&source)).map_err(wrong)?;
        Ok(ChatTemplate { environment, source, origin, tokens })
    }

    /// The template's text, as its file holds it.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The conversation as text; with `add_generation_prompt` it ends where the assistant's answer begins. Special tokens
    /// stand in it spelled out: encode it with `special`, and add nothing.
    ///
    /// # Errors
    /// `Usage` if the template refuses the messages (many want user and assistant to take turns); `Data` if the template
    /// itself fails.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let message = |message: &Message| {
            Value::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
        };
        let mut variables: BTreeMap<&str, Value> =
            self.tokens.iter().map(|(name, token)| (name.as_str(), Value::from(token.as_str()))).collect();
        variables.insert("messages", messages.iter().map(message).collect());
        variables.insert("add_generation_prompt", Value::from(add_generation_prompt));
        variables.insert("tools", Value::from(()));
        variables.insert("documents", Value::from(()));
        self.environment
            .get_template("chat")
            .and_then(|template| template.render(Value::from_pairs(variables)))
            .map_err(|error| explain(&self.origin, &error))
    }

    /// The special token that the template writes right after an answer, if it writes one: a model that learned by the
    /// template ends its turn with it, whether or not its folder lists it among the tokens of [`end_tokens`].
    pub fn end_of_turn(&self, tokenizer: &Tokenizer) -> Option<u32> {
        const ANSWER: &str = "answer";
        let text = self.render(&[Message::new("user", "question"), Message::new("assistant", ANSWER)], false).ok()?;
        let after = &text[text.rfind(ANSWER)? + ANSWER.len()..];
        let first = |special| tokenizer.encode(after, special).ok()?.first().copied();
        // Special is what has another id when it is taken as ordinary text.
        first(true).filter(|&id| first(false) != Some(id))
    }
}

/// The tokens at which a text ends: end-of-text, and whatever `eos_token_id` of the folder's `generation_config.json` and
/// `config.json` lists (chat models end a turn with a token of its own). Sorted, each once.
///
/// # Errors
/// `Io` or `Data` if one of the files cannot be read.
pub fn end_tokens(folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let mut ids: Vec<u32> = tokenizer.eot().into_iter().collect();
    for file in ["generation_config.json", "config.json"] {
        let Some(json) = read_json(&folder.join(file))? else { continue };
        let listed = match json.get("eos_token_id") {
            Some(serde_json::Value::Array(list)) => list.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        ids.extend(listed.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn read_text(path: &Path) -> Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| Error::data(path, "is not UTF-8 text")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

fn read_json(path: &Path) -> Result<Option<serde_json::Value>> {
    let Some(text) = read_text(path)? else { return Ok(None) };
    serde_json::from_str(&text).map(Some).map_err(|error| Error::data(path, format!("is not valid JSON: {error}")))
}

/// `chat_template` of a tokenizer_config.json: a text, or a list of named ones, of which `default` is meant.
fn named_template(config: &serde_json::Value, path: &Path) -> Result<Option<String>> {
    let Some(found) = config.get("chat_template").filter(|found| !found.is_null()) else { return Ok(None) };
    if let Some(source) = found.as_str() {
        return Ok(Some(source.to_string()));
    }
    let named: Vec<(&str, &str)> = found
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| Some((entry.get("name")?.as_str()?, entry.get("template")?.as_str()?)))
        .collect();
    match named.iter().find(|(name, _)| *name == "default").or(if named.len() == 1 { named.first() } else { None }) {
        Some((_, source)) => Ok(Some(source.to_string())),
        None => Err(Error::data(
            path,
            "has a \"chat_template\" that is neither a text nor a list with a template named \"default\"",
        )),
    }
}

/// The entries `..._token` of a folder, each a text or an object with `content`.
fn special_tokens(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut tokens = BTreeMap::new();
    // Older folders keep the special tokens apart; what tokenizer_config.json says counts more.
    for file in ["special_tokens_map.json", CONFIG_FILE] {
        let json = read_json(&folder.join(file))?;
        let entries = json.as_ref().and_then(serde_json::Value::as_object).into_iter().flatten();
        for (name, token) in entries.filter(|(name, _)| name.ends_with("_token")) {
            if let Some(text) = token.as_str().or_else(|| token.get("content")?.as_str()) {
                tokens.insert(name.clone(), text.to_string());
            }
        }
    }
    Ok(tokens)
}

/// transformers marks what the assistant wrote by `{% generation %}`, which is no Jinja: for the text it is a block that is
/// always there.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start + 2..start + length];
        let word = tag.trim_matches(|c: char| c.is_whitespace() || "-+".contains(c));
        out.push_str(&rest[..start + 2]);
        match word {
            "generation" => out.push_str(&tag.replace(word, "if true")),
            "endgeneration" => out.push_str(&tag.replace(word, "endif")),
            _ => out.push_str(tag),
        }
        out.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    out + rest
}

fn explain(origin: &Path, error: &minijinja::Error) -> Error {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<Raised>() {
            return Error::usage(format!("the chat template refuses this conversation: {what}"));
        }
        source = cause.source();
    }
    let place = error.line().map_or_else(String::new, |line| format!(", line {line}"));
    Error::data(origin, format!("the chat template fails{place}: {what}"))
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised))
}

/// The local time, as C's strftime writes it.
fn strftime_now(format: String) -> Result<String, minijinja::Error> {
    let items: Vec<_> = chrono::format::StrftimeItems::new(&format).collect();
    if items.contains(&chrono::format::Item::Error) {
        return Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now does not know all of {format:?}"),
        ));
    }
    Ok(chrono::Local::now().format_with_items(items.iter()).to_string())
}

/// Python's `json.dumps(value, ensure_ascii=False)`, with its options `ensure_ascii`, `indent` and `sort_keys`.
fn to_json(value: &Value, options: Kwargs) -> Result<Value, minijinja::Error> {
    let failed = |error: &dyn std::error::Error| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("this has no form in JSON: {error}"))
    };
    let mut json = serde_json::to_value(value).map_err(|error| failed(&error))?;
    if options.get::<Option<bool>>("sort_keys")?.unwrap_or(false) {
        json.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let written = match options.get::<Option<usize>>("indent")? {
        Some(indent) => {
            let blanks = " ".repeat(indent.min(64));
            let style = serde_json::ser::PrettyFormatter::with_indent(blanks.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, style))
        }
        None => json.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, OneLine)),
    };
    written.map_err(|error| failed(&error))?;
    let mut text = String::from_utf8(bytes).map_err(|error| failed(&error))?;
    if options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false) {
        let escape = |unit: u16| match char::from_u32(unit.into()).filter(char::is_ascii) {
            Some(letter) => letter.to_string(),
            None => format!("\\u{unit:04x}"),
        };
        text = text.encode_utf16().map(escape).collect();
    }
    options.assert_all_used()?;
    Ok(Value::from(text))
}

/// Python's separators on one line: a blank after each comma and colon.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let messages = [Message::new("user", " <a> & \"b\" é\u{1f600} "), Message::new("assistant", "yes")];
        ChatTemplate::from_source(source, "<s>", "</s>")?.render(&messages, true)
    }

    /// `tests/fixtures/chat/expected.json` is made by `scripts/make_chat_fixtures.py`.
    #[test]
    fn templates_give_the_text_that_transformers_gives() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chat");
        let cases = read_json(&folder.join("expected.json")).unwrap().unwrap();
        let mut refused = 0;
        for case in cases.as_array().unwrap() {
            let source = std::fs::read_to_string(folder.join(case["template"].as_str().unwrap())).unwrap();
            let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
            let template = ChatTemplate::from_source(&source, "<s>", "</s>").unwrap();
            match template.render(&messages, case["add_generation_prompt"].as_bool().unwrap()) {
                Ok(text) => assert_eq!(case["text"], text, "{case}"),
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.exit_code(), 2, "{error}");
                    assert!(error.to_string().contains(case["raises"].as_str().expect("a text, in Python")), "{error}");
                }
            }
        }
        assert_eq!((cases.as_array().unwrap().len(), refused), (90, 4));
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let expected = r#"{"role": "user", "content": " <a> & \"b\" é😀 "}"#;
        assert_eq!(render("{{ messages[0] | tojson }}").unwrap(), expected);
        let escaped = r#"" <a> & \"b\" \u00e9\ud83d\ude00 ""#;
        assert_eq!(render("{{ messages[0].content | tojson(ensure_ascii=true) }}").unwrap(), escaped);
        let sorted = "{\n  \"content\": \"yes\",\n  \"role\": \"assistant\"\n}";
        assert_eq!(render("{{ messages[1] | tojson(indent=2, sort_keys=true) }}").unwrap(), sorted);
        assert_eq!(render("{{ [1, 2.0, none, true, {}, []] | tojson }}").unwrap(), "[1, 2.0, null, true, {}, []]");
    }

    #[test]
    fn what_a_template_may_not_do_is_an_error_that_says_where() {
        let refused = render("{% if messages %}{{ raise_exception('roles must alternate') }}{% endif %}").unwrap_err();
        assert_eq!((refused.exit_code(), refused.to_string().contains("roles must alternate")), (2, true));
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}";
        assert!(render(endless).unwrap_err().to_string().contains("fuel"));
        for broken in ["line\n{% if %}", "\n{{ messages | no_such_filter }}", "\n{{ messages.x.y }}"] {
            let error = render(broken).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{error}");
        }
        assert!(render("{{ strftime_now('%Q!') }}").unwrap_err().to_string().contains("strftime_now"));
    }

    #[test]
    fn the_date_is_todays() {
        let before = chrono::Local::now().format("%d %b %Y").to_string();
        let found = render("{{ strftime_now('%d %b %Y') }}").unwrap();
        let after = chrono::Local::now().format("%d %b %Y").to_string();
        assert!([before, after].contains(&found), "{found}");
    }

    #[test]
    fn generation_tags_change_nothing() {
        let plain = "{%- for m in messages -%}\n  {{ m.content }}!\n{% endfor %}";
        let marked =
            "{%- for m in messages -%}\n  {%- generation -%}{{ m.content }}!{% endgeneration +%}\n{% endfor %}";
        assert_eq!(render(plain).unwrap(), render(marked).unwrap());
        assert_eq!(without_generation_tags("{% open"), "{% open");
    }

    #[test]
    fn a_folder_says_its_template_and_its_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let load = || ChatTemplate::load(folder.path());
        assert!(load().unwrap().is_none());
        write("special_tokens_map.json", r#"{"bos_token": "<old>", "eos_token": {"content": "<end>"}}"#);
        write(CONFIG_FILE, r#"{"bos_token": "<s>", "chat_template": "{{ bos_token ~ eos_token ~ pad_token }}"}"#);
        assert_eq!(load().unwrap().unwrap().render(&[], false).unwrap(), "<s><end>");
        let list =
            r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
        write(CONFIG_FILE, list);
        assert_eq!(load().unwrap().unwrap().source(), "d");
        write(CONFIG_FILE, r#"{"chat_template": 3}"#);
        assert!(load().unwrap_err().to_string().contains("chat_template"));
        write(CONFIG_FILE, r#"{"chat_template": "{{"}"#);
        assert!(load().is_err());
        write(TEMPLATE_FILE, "alone");
        assert_eq!(load().unwrap().unwrap().source(), "alone");
        write(CONFIG_FILE, "{");
        assert!(load().unwrap_err().to_string().contains("not valid JSON"));
    }

    #[test]
    fn the_end_of_a_turn_is_read_off_the_template() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        Tokenizer::bytes().save_file(&path).unwrap();
        let mut json = read_json(&path).unwrap().unwrap();
        let mut token = json["added_tokens"][0].clone();
        (token["id"], token["content"]) = (257.into(), "<|im_end|>".into());
        json["added_tokens"].as_array_mut().unwrap().push(token);
        std::fs::write(&path, json.to_string()).unwrap();
        let tokenizer = Tokenizer::from_file(&path).unwrap();
        assert_eq!(tokenizer.encode("<|im_end|>", true).unwrap(), [257]);
        let ends = |after: &str| {
            let source = format!("{{% for m in messages %}}{{{{ m.role ~ m.content }}}}{after}{{% endfor %}}");
            ChatTemplate::from_source(&source, "", "").unwrap().end_of_turn(&tokenizer)
        };
        assert_eq!(ends("<|im_end|>\n"), Some(257));
        assert_eq!(ends("<|endoftext|>"), Some(256));
        assert_eq!((ends("\n"), ends(""), ends(" <|im_end|>")), (None, None, None));
        assert_eq!(ends("{{ raise_exception('never') }}"), None);
    }

    #[test]
    fn an_answer_ends_at_every_token_that_the_folder_lists() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(end_tokens(folder.path(), &Tokenizer::bytes()).unwrap(), [256]);
        write("config.json", r#"{"eos_token_id": 7}"#);
        write("generation_config.json", r#"{"eos_token_id": [9, 7]}"#);
        assert_eq!(end_tokens(folder.path(), &Tokenizer::bytes()).unwrap(), [7, 9, 256]);
        write("generation_config.json", r#"{"eos_token_id": null}"#);
        assert_eq!(end_tokens(folder.path(), &Tokenizer::bytes()).unwrap(), [7, 256]);
    }
}
