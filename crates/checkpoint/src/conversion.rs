//! A model written as a GGUF file in other element types.
//!
//! Tensors are read, rounded and written a piece at a time, so that a model of any size needs little memory. From a GGUF file
//! everything is taken over that is not about element types; from a folder the metadata are made (`of_config`), and what they say
//! about text comes from outside.

mod mix;
mod of_config;
mod piece;

use std::io::Write;

use crate::checkpoint::{Checkpoint, named};
use crate::config::{ModelConfig, ROPE_FACTORS};
use crate::error::Error;
use crate::gguf::{ALIGNMENT, Declared, Gguf, Keys, Writer};
use crate::stored::{Dtype, RowOrder, TensorView};
pub use mix::Mix;
use mix::Shape;
use piece::Loss;
pub(crate) use piece::Rows;

/// Which mix of types the file is in.
const FILE_TYPE: &str = "general.file_type";
/// Version of the block formats.
const FORMATS: &str = "general.quantization_version";
const FORMATS_VERSION: u32 = 2;
/// Elements that are worked on at once.
const PIECE_LEN: usize = 1 << 20;

/// A model and what its tensors become.
#[derive(Debug)]
pub struct Conversion<'a> {
    keys: Keys,
    tensors: Vec<Tensor<'a>>,
}

/// A tensor and what it becomes.
#[derive(Debug)]
struct Tensor<'a> {
    declared: Declared,
    source: Source<'a>,
}

/// Where values come from.
#[derive(Debug)]
enum Source<'a> {
    /// Tensors, one behind the other, and the order in which the rows of each are to be written.
    Stored(Vec<TensorView<'a>>, RowOrder),
    /// Values that follow from the configuration.
    Made(Vec<u8>),
}

/// What was written in one element type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// The type.
    pub dtype: Dtype,
    /// Tensors.
    pub n_tensors: usize,
    /// Bytes before.
    pub stored_bytes: usize,
    /// Bytes after.
    pub n_bytes: usize,
    loss: Loss,
}

impl Total {
    /// Root mean square of what rounding changed over that of the values.
    pub fn relative_error(&self) -> f64 {
        self.loss.relative()
    }
}

impl<'a> Conversion<'a> {
    /// All tensors of a GGUF file, and its metadata.
    ///
    /// # Errors
    /// As [`ModelConfig::of_gguf`].
    pub fn of_gguf(gguf: &'a Gguf, mix: Mix) -> Result<Self, Error> {
        let config = ModelConfig::of_gguf(gguf)?;
        let names = gguf.stored_names();
        let shape = Shape::new(&config, !names.contains(&"output.weight"));
        let mut keys = gguf.keys();
        keys.retain(|key| !key.starts_with("split.") && key != ALIGNMENT);
        set_types(&mut keys, mix);
        let tensors = names.into_iter().filter_map(|name| {
            let stored = gguf.tensor(name)?;
            let dtype = mix.dtype(shape, name, stored.shape);
            let declared = Declared { name: name.to_string(), dtype, shape: stored.shape.to_vec() };
            Some(Tensor { declared, source: Source::Stored(vec![stored], RowOrder::AsIs) })
        });
        Ok(Self { keys, tensors: tensors.collect() })
    }

    /// The tensors that a model of a folder has, and metadata.
    ///
    /// * `text`: metadata of its tokenizer and chat template.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape than the configuration implies, or files of the architecture are not written,
    /// or no such file can say what the experts do.
    pub fn of_folder(checkpoint: &'a Checkpoint, text: Keys, mix: Mix) -> Result<Self, Error> {
        let config = checkpoint.config();
        of_config::refuse_experts(config)?;
        let shape = Shape::new(config, config.tie_embeddings);
        let mut keys = of_config::keys(config)?;
        set_types(&mut keys, mix);
        keys.extend(text);
        let mut tensors = Vec::new();
        if let Some(factors) =
            config.ropes[0].scaling.factors(config.ropes[0].theta, config.ropes[0].rotary_dim)
        {
            let (name, shape) = (ROPE_FACTORS.to_string(), vec![factors.len()]);
            let bytes = factors.into_iter().flat_map(f32::to_le_bytes).collect();
            let declared = Declared { name, dtype: Dtype::F32, shape };
            tensors.push(Tensor { declared, source: Source::Made(bytes) });
        }
        for tensor in named(config) {
            // Of experts each has its own matrix.
            let shape_each = &tensor.shape[usize::from(tensor.shape.len() == 3)..];
            let stored = tensor.published.iter().map(|name| checkpoint.tensor(name, shape_each));
            let stored = stored.collect::<Result<Vec<_>, Error>>()?;
            let dtype = mix.dtype(shape, &tensor.name, &tensor.shape);
            let declared = Declared { name: tensor.name, dtype, shape: tensor.shape };
            tensors.push(Tensor { declared, source: Source::Stored(stored, tensor.order) });
        }
        Ok(Self { keys, tensors })
    }

    /// Bytes of all tensors before.
    pub fn stored_bytes(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.source.n_bytes()).sum()
    }

    /// Tensors that were rounded to a block format before and will be rounded to another type again.
    pub fn n_rounded_again(&self) -> usize {
        let is_rounded_again = |tensor: &&Tensor<'_>| match &tensor.source {
            Source::Stored(stored, _) => stored
                .iter()
                .any(|stored| stored.dtype.is_quantised() && stored.dtype != tensor.declared.dtype),
            Source::Made(_) => false,
        };
        self.tensors.iter().filter(is_rounded_again).count()
    }

    /// Writes the file; the same model gives the same bytes.
    ///
    /// * `n_threads`: that round, at least 1.
    /// * `progress`: is told bytes of tensors that are done.
    /// * Returns what was written, in the order of [`Dtype::WRITTEN`].
    ///
    /// # Errors
    /// [`Error::Write`] if `out` fails, [`Error::Element`] for weights that are no numbers or too large.
    pub fn write(
        &self,
        out: impl Write,
        n_threads: usize,
        mut progress: impl FnMut(usize),
    ) -> Result<Vec<Total>, Error> {
        let declared: Vec<Declared> = self.tensors.iter().map(|tensor| tensor.declared.clone()).collect();
        let mut writer = Writer::new(out, &self.keys, &declared)?;
        let mut totals: Vec<Total> = Vec::new();
        for tensor in &self.tensors {
            let loss = tensor.write(&mut writer, n_threads, &mut progress)?;
            let (dtype, n_bytes) = (tensor.declared.dtype, tensor.declared.n_bytes());
            let stored_bytes = tensor.source.n_bytes();
            match totals.iter_mut().find(|total| total.dtype == dtype) {
                Some(total) => {
                    total.n_tensors += 1;
                    total.stored_bytes += stored_bytes;
                    total.n_bytes += n_bytes;
                    total.loss += loss;
                }
                None => totals.push(Total { dtype, n_tensors: 1, stored_bytes, n_bytes, loss }),
            }
        }
        writer.finish()?;
        totals.sort_by_key(|total| Dtype::WRITTEN.iter().position(|&dtype| dtype == total.dtype));
        Ok(totals)
    }
}

fn set_types(keys: &mut Keys, mix: Mix) {
    keys.u32(FILE_TYPE, mix.file_type()).u32(FORMATS, FORMATS_VERSION);
}

impl Source<'_> {
    fn n_bytes(&self) -> usize {
        match self {
            Self::Stored(stored, _) => stored.iter().map(|stored| stored.bytes.len()).sum(),
            Self::Made(bytes) => bytes.len(),
        }
    }
}

impl Tensor<'_> {
    fn write(
        &self,
        writer: &mut Writer<impl Write>,
        n_threads: usize,
        progress: &mut impl FnMut(usize),
    ) -> Result<Loss, Error> {
        let (stored, order) = match &self.source {
            Source::Stored(stored, order) => (stored, *order),
            Source::Made(bytes) => {
                writer.append(bytes)?;
                progress(bytes.len());
                return Ok(Loss::default());
            }
        };
        let mut loss = Loss::default();
        for stored in stored {
            let rows = Rows::new(*stored, order, self.declared.dtype);
            loss += self.write_rows(&rows, writer, n_threads, progress)?;
        }
        Ok(loss)
    }

    fn write_rows(
        &self,
        rows: &Rows<'_>,
        writer: &mut Writer<impl Write>,
        n_threads: usize,
        progress: &mut impl FnMut(usize),
    ) -> Result<Loss, Error> {
        let rows_per_piece = (PIECE_LEN / rows.len()).max(1);
        let mut loss = Loss::default();
        for start in (0..rows.n_rows()).step_by(rows_per_piece) {
            let end = (start + rows_per_piece).min(rows.n_rows());
            for piece in rows.rounded(start..end, n_threads) {
                let piece = piece.map_err(|misfit| Error::Element {
                    name: self.declared.name.clone(),
                    dtype: self.declared.dtype.name(),
                    idx: misfit.idx,
                    got: misfit.value,
                })?;
                writer.append(&piece.bytes)?;
                loss += piece.loss;
            }
            progress((end - start) * rows.stored_bytes());
        }
        Ok(loss)
    }
}
