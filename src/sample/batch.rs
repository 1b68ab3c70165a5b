//! Several texts at once, through the slots of one engine.

use super::{Generation, Request, Sample};
use crate::data::tokenizer::Tokenizer;
use crate::decode::{Decode, Feed};
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
    generation: Generation<'a>,
    /// Where its window started when it was last fed.
    start: usize,
}

/// Generates a text for each request; as many at a time as the engine has slots, the next as soon as one is free. The texts
/// are the same whatever is written beside them. `on_event` is told, with the number of the request, what happens.
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
    let config = engine.config().clone();
    let start = |request: &Request<'_>| Generation::new(&config, tokenizer, request.clone(), slide).map(drop);
    requests.iter().try_for_each(start)?;
    let mut done: Vec<Option<Sample>> = requests.iter().map(|_| None).collect();
    let mut waiting = requests.iter().enumerate();
    let mut free: Vec<usize> = (0..engine.slots()).rev().collect();
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut logits = Vec::new();
    loop {
        while let Some(&slot) = free.last()
            && let Some((index, request)) = waiting.next()
        {
            let generation = Generation::new(&config, tokenizer, request.clone(), slide)?;
            if generation.is_finished() {
                let sample = generation.into_sample();
                on_event(index, Event::Done(&sample))?;
                done[index] = Some(sample);
                continue;
            }
            free.pop();
            engine.truncate(slot, 0);
            running.push(Running { index, slot, generation, start: 0 });
        }
        if running.is_empty() {
            return Ok(done.into_iter().flatten().collect());
        }
        for text in &mut running {
            if text.generation.start() != text.start {
                text.start = text.generation.start();
                engine.truncate(text.slot, 0);
                on_event(text.index, Event::Slid)?;
            }
        }
        let feeds: Vec<Feed<'_>> = running
            .iter()
            .map(|text| Feed { slot: text.slot, tokens: &text.generation.window()[engine.len(text.slot)..] })
            .collect();
        engine.feed(&feeds, &mut logits)?;
        let mut told = Ok(());
        for (text, logits) in running.iter_mut().zip(logits.chunks_exact(config.vocab_size)) {
            text.generation.accept(logits, &mut |piece| {
                if told.is_ok() {
                    told = on_event(text.index, Event::Text(piece));
                }
            })?;
        }
        told?;
        for at in (0..running.len()).rev().filter(|&at| running[at].generation.is_finished()).collect::<Vec<_>>() {
            let text = running.remove(at);
            free.push(text.slot);
            let sample = text.generation.into_sample();
            on_event(text.index, Event::Done(&sample))?;
            done[text.index] = Some(sample);
        }
    }
}
