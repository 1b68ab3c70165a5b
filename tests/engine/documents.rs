//! Documents that share a row: losses and gradients are those of each document alone.

use super::common::{Batch, distance, engine, pass, random_values, small, wide};
use taper::arch::config::{ModelConfig, Norm, Position};
use taper::device::Device;
use taper::model::gpt::Pass;
use taper::ops::classifier::IGNORE;
use taper::ops::documents::Documents;
use taper::tape::Gradients;

/// Documents of 4, 1, 6 and 11 tokens, in two rows of the context.
const LENGTHS: [usize; 4] = [4, 1, 6, 11];

fn check(config: &ModelConfig) {
    let values = random_values(config, 3);
    let (model, params) = engine(config, &values);
    let mut batch = Batch::random(5, 2, 11, config.vocab_size);
    batch.targets[2] = IGNORE;
    let begins: Vec<u32> = [0, 0, 0, 0, 4, 5, 5, 5, 5, 5, 5].into_iter().chain([0; 11]).collect();
    let documents = Documents::new(&begins, 2, 11, Device::Cpu).unwrap();

    let mut expected = Gradients::zeros_like(&params).unwrap();
    let (mut losses, mut first) = (Vec::new(), 0);
    for len in LENGTHS {
        let of = |ids: &[u32]| ids[first..first + len].to_vec();
        let alone = Batch { b: 1, t: len, tokens: of(&batch.tokens), targets: of(&batch.targets) };
        losses.extend(pass((&model, &params), &alone, 0.5, &Pass::default(), &mut expected));
        first += len;
    }
    assert_eq!(losses[2], 0.0);
    for recompute in [false, true] {
        let how = Pass { recompute, documents: Some(documents.clone()), ..Pass::default() };
        let mut grads = Gradients::zeros_like(&params).unwrap();
        let found = pass((&model, &params), &batch, 0.5, &how, &mut grads);
        // Products of other extents add up in another order.
        let off = distance(wide(&found), wide(&losses));
        assert!(off < 2e-6, "losses are off by {off:e}");
        let off = distance(wide(grads.flat().f32()), wide(expected.flat().f32()));
        assert!(off < 1e-5, "gradients are off by {off:e}");
    }
    // And they are not those of rows in which everything before is seen.
    let mut grads = Gradients::zeros_like(&params).unwrap();
    let seen = pass((&model, &params), &batch, 0.5, &Pass::default(), &mut grads);
    assert!(distance(wide(&seen), wide(&losses)) > 1e-2);
}

#[test]
fn a_row_of_documents_is_the_documents() {
    check(&small());
    check(&ModelConfig { position: Position::Rope, norm: Norm::Rmsnorm, n_kv_head: 2, ..small() });
    check(&ModelConfig { position: Position::None, ..small() });
}
