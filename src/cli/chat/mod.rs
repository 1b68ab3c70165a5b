//! `taper chat`: a conversation with a model at the terminal, or through a pipe.
//!
//! Standard output carries the answers alone; everything else goes to standard error. At a terminal lines are edited and
//! kept, and Ctrl-C stops an answer; without one each line of standard input is a turn.

mod commands;
mod lines;

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::cli::args::model::ModelArgs;
use crate::cli::args::sampler::SamplerArgs;
use crate::cli::chat::commands::{Command, HELP, apply, show};
use crate::cli::chat::lines::{Input, Lines};
use crate::cli::ui::print_bytes;
use crate::data::ChatTemplate;
use crate::data::chat::end_tokens;
use crate::error::{Error, Result};
use crate::sample::conversation::Settings;
use crate::sample::{Answer, Conversation, FinishReason};

/// Arguments of `taper chat`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  taper chat runs/quickstart
  taper chat OWNER/NAME --system \"You answer in one sentence.\" --temperature 0.7
  echo \"What is a lamp?\" | taper chat OWNER/NAME          one line, one answer

/help in the chat lists its commands. See docs/chat.md.")]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A file with the chat template (Jinja) [default: the model folder's].
    #[arg(long, value_name = "FILE", conflicts_with = "plain")]
    template: Option<PathBuf>,
    /// Continue the text, even if the model has a chat template.
    #[arg(long)]
    plain: bool,
    /// The most tokens of an answer; end-of-turn and the end of the context stop it sooner.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: u32,
    #[command(flatten)]
    sampler: SamplerArgs,
    /// Keep no history of what was typed.
    #[arg(long)]
    no_history: bool,
}

/// Runs `taper chat`.
///
/// # Errors
/// If the model cannot be opened, an option is out of range, or, through a pipe, a turn does not fit the context.
pub fn run(args: Args) -> Result<()> {
    let mut settings = Settings { sampler: args.sampler.config()?, max_new_tokens: args.max_new_tokens as usize };
    let mut opened = args.model.open_native()?;
    let template = match &args.template {
        _ if args.plain => None,
        Some(path) => Some(ChatTemplate::load_file(path, &opened.folder)?),
        None => ChatTemplate::load(&opened.folder)?,
    };
    let (tokenizer, end) = (opened.tokenizer.clone(), end_tokens(&opened.folder, &opened.tokenizer)?);
    let name = args.model.model.clone();
    let context = opened.model.config().context_length;
    let mut talk = Conversation::new(opened.decoder(1, context)?, tokenizer, template, end);
    if args.system.is_some() {
        talk.set_system(args.system)?;
    }
    let terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if terminal {
        eprintln!("{}", introduction(&name, &talk));
    }
    let stop = Arc::new(AtomicBool::new(false));
    if !terminal {
        for line in std::io::stdin().lock().lines() {
            let line = line.map_err(Error::io("read", "standard input"))?;
            if !turn(&mut talk, &mut settings, &line, &stop, false)? {
                break;
            }
        }
        return Ok(());
    }
    // Ctrl-C stops the answer. While a line is edited the terminal hands the key to the editor instead.
    signal_hook::flag::register(signal_hook::consts::SIGINT, stop.clone())
        .map_err(|error| Error::Device(format!("cannot listen for signals: {error}")))?;
    let mut lines = Lines::open(!args.no_history)?;
    let result = converse(&mut talk, &mut settings, &mut lines, &stop);
    lines.close()?;
    result
}

/// Turn by turn at the terminal, until someone leaves.
fn converse(talk: &mut Conversation, settings: &mut Settings, lines: &mut Lines, stop: &AtomicBool) -> Result<()> {
    let mut goodbye = false;
    loop {
        let line = match lines.read()? {
            Input::Text(line) => line,
            // Twice in a row leaves, for those who expect that.
            Input::Interrupted if !goodbye => {
                goodbye = true;
                eprintln!("(Ctrl-D or /quit leaves)");
                continue;
            }
            Input::Interrupted | Input::End => return Ok(()),
        };
        goodbye = false;
        match turn(talk, settings, &line, stop, true) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            // A mistake of the moment ends no conversation.
            Err(error @ Error::Usage(_)) => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
    }
}

fn introduction(name: &str, talk: &Conversation) -> String {
    let kind = match talk.has_template() {
        true => "it has a chat template, and answers you as that says",
        false => "it is a base model, without a chat template: it continues the text that you write",
    };
    format!(
        "{name}: {kind} (context: {} tokens)\n/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.",
        talk.context()
    )
}

/// One line of input; false to leave.
fn turn(
    talk: &mut Conversation,
    settings: &mut Settings,
    line: &str,
    stop: &AtomicBool,
    terminal: bool,
) -> Result<bool> {
    // A command that was stopped must not stop the next answer.
    stop.store(false, Ordering::Relaxed);
    let stopped = || stop.load(Ordering::Relaxed);
    let mut write = |text: &str| print_bytes(if terminal { harmless(text) } else { text.to_string() }.as_bytes());
    let answer = match Command::parse(line)? {
        Command::Say(text) if text.is_empty() && talk.has_template() => return Ok(true),
        Command::Say(text) => Some(talk.answer(&text, settings, &stopped, &mut write)?),
        Command::Again => {
            let again = talk.answer_again(settings, &stopped, &mut write)?;
            if again.is_none() {
                eprintln!("there is no answer yet");
            }
            again
        }
        Command::Quit => return Ok(false),
        Command::Help => return said(HELP),
        Command::Reset => {
            talk.reset();
            return said("the conversation begins again");
        }
        Command::System(text) => {
            let what = if text.is_some() { "the system message is set" } else { "there is no system message" };
            talk.set_system(text)?;
            return said(what);
        }
        Command::Show => return said(&show(settings)),
        Command::Set(key, value) => {
            apply(settings, &key, &value)?;
            return said(&show(settings));
        }
        Command::Save(path) => {
            save(talk, Path::new(&path))?;
            return said(&format!("added to {path}"));
        }
    };
    if let Some(answer) = answer {
        print_bytes(b"\n")?;
        tell(&answer);
    }
    Ok(true)
}

fn said(what: &str) -> Result<bool> {
    eprintln!("{what}");
    Ok(true)
}

/// What the reader of an answer should know about it.
fn tell(answer: &Answer) {
    if answer.dropped > 0 {
        eprintln!("note: the context was full, so the oldest {} turn(s) were left out of it", answer.dropped);
    }
    match answer.finish {
        None => eprintln!("(stopped)"),
        Some(FinishReason::Length) if answer.full => eprintln!("note: the answer ends because the context is full"),
        Some(FinishReason::Length) => {
            eprintln!("note: the answer ends after {} tokens; /set max_new_tokens allows more", answer.tokens);
        }
        Some(FinishReason::Eos | FinishReason::Stop) => {}
    }
}

/// A text that cannot steer the terminal: control characters other than line ends and tabs are shown as U+FFFD.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && !"\n\t".contains(c) { '\u{fffd}' } else { c }).collect()
}

/// Adds the conversation to a file as one line of JSON: `{"messages": [...]}` as chat data is written, or `{"text": ...}`.
fn save(talk: &Conversation, path: &Path) -> Result<()> {
    let messages = talk.messages();
    let json = match messages.first() {
        Some(only) if !talk.has_template() => serde_json::json!({ "text": only.content }),
        _ => serde_json::json!({ "messages": messages }),
    };
    let open = std::fs::OpenOptions::new().create(true).append(true).open(path);
    open.and_then(|mut file| std::io::Write::write_all(&mut file, format!("{json}\n").as_bytes()))
        .map_err(|error| Error::usage(Error::io("write", path)(error).to_string()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_text_cannot_steer_the_terminal() {
        assert_eq!(super::harmless("a\tb\n\u{1b}[2Jé\u{9b}"), "a\tb\n\u{fffd}[2Jé\u{fffd}");
    }
}
