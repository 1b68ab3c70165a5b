//! Several texts at once, through the slots of one engine.

use super::session::{Session, step};
use super::{Request, Sample};
use crate::data::tokenizer::Tokenizer;
use crate::decode::Decode;
use crate::error::Result;

/// What happens to a text.
#[derive(Debug)]
pub enum Event<'a> {
    /// A piece of it is certain.
    Text(&'a str),
    /// Its older half has been dropped (only with `slide`).
    Slid,
    /// It is at its end.
    Done(&'a Sample),
}

/// A text in a slot.
struct Running<'a> {
    index: usize,
    slot: usize,
    session: Session<'a>,
    start: usize,
}

/// Generates a text for each request; as many at a time as the engine has slots, the next as soon as one is free. The texts
/// are the same whatever is written next to them. `on_event` is told, with the number of the request, what happens.
///
/// # Errors
/// The first prompt that does not fit; a model that has diverged; `on_event`'s; those of the engine.
pub fn generate_all(
    engine: &mut dyn Decode,
    tokenizer: &Tokenizer,
    requests: &[Request<'_>],
    slide: bool,
    on_event: &mut dyn FnMut(usize, Event<'_>) -> Result<()>,
) -> Result<Vec<Sample>> {
    let context = engine.config().context_length;
    // All of them first: a prompt that does not fit should show before others have been written.
    let sessions: Result<Vec<Session<'_>>> =
        requests.iter().map(|request| Session::of_request(tokenizer, request, context, slide)).collect();
    let mut done: Vec<Option<Sample>> = requests.iter().map(|_| None).collect();
    let mut waiting = sessions?.into_iter().enumerate();
    let mut free: Vec<usize> = (0..engine.slots()).rev().collect();
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut logits = Vec::new();
    loop {
        while let Some(&slot) = free.last()
            && let Some((index, session)) = waiting.next()
        {
            if session.finish().is_some() {
                let sample = session.into_sample(requests[index].prompt);
                on_event(index, Event::Done(&sample))?;
                done[index] = Some(sample);
                continue;
            }
            free.pop();
            engine.truncate(slot, 0);
            running.push(Running { index, slot, session, start: 0 });
        }
        if running.is_empty() {
            return Ok(done.into_iter().flatten().collect());
        }
        for text in &mut running {
            if text.session.start() != text.start {
                text.start = text.session.start();
                engine.truncate(text.slot, 0);
                on_event(text.index, Event::Slid)?;
            }
        }
        let mut texts: Vec<_> = running.iter_mut().map(|text| (text.slot, &mut text.session)).collect();
        let steps = step(engine, &mut texts, &mut logits)?;
        for (text, step) in running.iter().zip(steps) {
            let step = step?;
            if !step.text.is_empty() {
                on_event(text.index, Event::Text(&step.text))?;
            }
        }
        for at in (0..running.len()).rev() {
            if running[at].session.finish().is_none() {
                continue;
            }
            let text = running.remove(at);
            free.push(text.slot);
            let sample = text.session.into_sample(requests[text.index].prompt);
            on_event(text.index, Event::Done(&sample))?;
            done[text.index] = Some(sample);
        }
    }
}
