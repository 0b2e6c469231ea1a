//! GGUF files: header, metadata, table of tensors; the model, head or assistant that they describe, and its conversion.

use std::path::Path;

use dsde_checkpoint::gguf::{Declared, Gguf, Writer};
use dsde_checkpoint::{AssistantCheckpoint, Checkpoint, Conversion, Eagle3Checkpoint, Mix};

use crate::config::{assert_usable, assert_usable_assistant};
use crate::input::files;

/// A key about how tensors lie, which the writer decides.
const ALIGNMENT: &str = "general.alignment";

/// A file that can be read has all of its tensors, is written again as the same, and is a model, a head, an assistant or
/// nothing; a model can be converted into a file that is read again.
pub fn gguf(bytes: &[u8]) {
    let folder = files(&[("model.gguf", bytes)]);
    let path = folder.path().join("model.gguf");
    let model = Checkpoint::open(&path);
    let Ok(file) = Gguf::open(&path) else {
        assert!(model.is_err(), "a model in a file that cannot be read");
        return;
    };
    let again = files(&[("model.gguf", &written(&file))]);
    let again = Gguf::open(&again.path().join("model.gguf")).expect("a file that was written");
    assert_same(&file, &again);
    assert_assistant_if_any(&path);
    assert_head_if_any(&path);
    if let Ok(model) = model {
        assert_tensors(&model);
        convert(&file);
    }
}

/// The same file as this project writes it.
fn written(file: &Gguf) -> Vec<u8> {
    let mut keys = file.keys();
    keys.retain(|key| key != ALIGNMENT);
    let tensors = || file.stored_names().into_iter().map(|name| (name, file.tensor(name).expect("listed")));
    let declared: Vec<Declared> = tensors()
        .map(|(name, tensor)| Declared {
            name: name.to_owned(),
            dtype: tensor.dtype,
            shape: tensor.shape.to_vec(),
        })
        .collect();
    let mut writer = Writer::new(Vec::new(), &keys, &declared).expect("memory does not fail");
    for (_, tensor) in tensors() {
        writer.append(tensor.bytes).expect("memory does not fail");
    }
    writer.finish().expect("memory does not fail")
}

fn assert_same(file: &Gguf, again: &Gguf) {
    let mut keys = file.keys();
    keys.retain(|key| key != ALIGNMENT);
    assert_eq!(keys, again.keys());
    assert_eq!(file.stored_names(), again.stored_names());
    for name in file.stored_names() {
        let (tensor, other) = (file.tensor(name).expect("listed"), again.tensor(name).expect("listed"));
        assert_eq!((tensor.dtype, tensor.shape, tensor.bytes), (other.dtype, other.shape, other.bytes));
        assert_eq!(tensor.to_f32().len(), tensor.shape.iter().product::<usize>(), "{name}");
    }
}

fn convert(file: &Gguf) {
    for mix in Mix::ALL {
        let Ok(conversion) = Conversion::of_gguf(file, mix) else { continue };
        let mut out = Vec::new();
        if conversion.write(&mut out, 1, |_| {}).is_ok() {
            let folder = files(&[("model.gguf", &out)]);
            let converted = Checkpoint::open(&folder.path().join("model.gguf"));
            converted.unwrap_or_else(|error| panic!("as {}: {error}", mix.name()));
        }
    }
}

/// An assistant can guess: all of its tensors are there, and its groups hold every token once.
pub(crate) fn assert_assistant_if_any(path: &Path) {
    let Ok(Some(assistant)) = AssistantCheckpoint::find(path) else { return };
    assert_usable_assistant(assistant.config());
    assert_readable(assistant.weights());
    assert!(assistant.projections().is_ok() && assistant.centroids().is_ok());
    let mut order = assistant.order().to_vec();
    order.sort_unstable();
    let n_sorted = assistant.config().centroids.map_or(0, |_| assistant.config().model.vocab_len);
    assert!(order.iter().copied().eq(0..n_sorted as u32));
    let _ = (assistant.weight_bytes(), assistant.dtypes());
}

/// A head guesses tokens of its target, none twice.
pub(crate) fn assert_head_if_any(path: &Path) {
    let Ok(Some(head)) = Eagle3Checkpoint::find(path) else { return };
    let (config, mut vocabulary) = (head.config(), head.vocabulary().to_vec());
    assert_eq!(vocabulary.len(), config.draft_vocab_len);
    assert!(vocabulary.iter().all(|&token| (token as usize) < config.layer.vocab_len));
    vocabulary.sort_unstable();
    vocabulary.dedup();
    assert_eq!(vocabulary.len(), config.draft_vocab_len, "a token that is guessed twice");
    assert_usable(&config.layer);
    assert_readable(head.weights());
    if let Ok(norms) = head.state_norms() {
        assert!([0, 1, config.n_taps()].contains(&norms.len()));
    }
    let _ = (head.combination().is_ok(), head.final_norm().is_ok(), head.output().is_ok());
    let _ = (head.embeddings().is_ok(), head.weight_bytes(), head.dtypes());
}

fn assert_readable(weights: &Checkpoint) {
    for name in weights.tensor_names() {
        if let Ok(tensor) = weights.stored(name) {
            assert_eq!(tensor.to_f32().len(), tensor.shape.iter().product::<usize>(), "{name}");
        }
    }
}

/// A model whose configuration can be computed with and whose tensors are all there.
pub(crate) fn assert_tensors(model: &Checkpoint) {
    assert_usable(model.config());
    assert_readable(model);
    assert!(model.weight_bytes() <= model.stored_bytes());
    let _ = model.dtypes();
    if let Ok(Some(head)) = model.mtp() {
        assert_tensors(head.weights());
        let _ = (head.weight_bytes(), head.dtypes());
    }
    for matrix in [model.embeddings(), model.output_projection()].into_iter().flatten() {
        let mut row = vec![0.0; matrix.n_in];
        (0..matrix.n_out).for_each(|i| matrix.widen_row(i, &mut row));
    }
}
