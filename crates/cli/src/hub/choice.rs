//! Which files of a repository make the model that is meant.

use std::collections::BTreeMap;

use super::Error;

/// Quantisation that is taken where none is named: small, and hardly worse than the original.
const LABEL_DEFAULT: &str = "Q4_K_M";
/// GGUF files beside a model that are none: the eye of one that sees, and statistics for quantising.
const COMPANIONS: [&str; 2] = ["mmproj", "imatrix"];
/// Most files that an error lists.
const N_LISTED_MAX: usize = 40;
/// Small files of a model folder by name.
const SMALL: [&str; 3] = ["config.json", "generation_config.json", "special_tokens_map.json"];
/// The weights' table of contents.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// What to fetch and what to open then.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Weights come last, so that where they are complete everything is.
    pub(super) files: Vec<String>,
    /// The GGUF file to open; `None` is the folder.
    pub(super) opened: Option<String>,
}

impl Choice {
    /// * `names`: of all files.
    /// * `wanted`: a GGUF file or a part of its name; `None` is the safetensors files, else the one usual GGUF file.
    ///
    /// # Errors
    /// If there is no such file or there are several.
    pub(super) fn new(names: &[String], wanted: Option<&str>) -> Result<Self, Error> {
        if wanted.is_none() && names.iter().any(|name| is_weights(name)) {
            return Ok(Self { files: folder(names), opened: None });
        }
        let models = gguf_models(names);
        if models.is_empty() {
            return Err(Error::NoModel);
        }
        let found = match wanted {
            Some(wanted) if names.iter().any(|name| name == wanted) => whose_part(&models, wanted),
            Some(label) => labelled(&models, label),
            None => match labelled(&models, LABEL_DEFAULT) {
                found if found.len() == 1 => found,
                _ => models.values().collect(),
            },
        };
        match found.as_slice() {
            [model] => model.choice(),
            [] => Err(Error::NoFile {
                wanted: wanted.unwrap_or_default().to_owned(),
                files: listed(models.values()),
            }),
            several => Err(Error::SeveralFiles { files: listed(several.iter().copied()) }),
        }
    }
}

/// The parts of a GGUF model.
#[derive(Debug)]
struct GgufModel {
    /// What is declared.
    n_parts: usize,
    /// By number, from 1.
    parts: BTreeMap<usize, String>,
}

impl GgufModel {
    fn choice(&self) -> Result<Choice, Error> {
        let files: Vec<String> = self.parts.values().cloned().collect();
        match self.parts.keys().copied().eq(1..=self.n_parts) {
            true => Ok(Choice { opened: files.first().cloned(), files }),
            false => Err(Error::PartsMissing { expected: self.n_parts, got: files.join(", ") }),
        }
    }

    /// The name of its first file.
    fn name(&self) -> &str {
        self.parts.values().next().map_or("", String::as_str)
    }
}

/// GGUF models by the names that their parts share.
fn gguf_models(names: &[String]) -> BTreeMap<String, GgufModel> {
    let mut models = BTreeMap::new();
    for name in names.iter().filter(|name| name.to_lowercase().ends_with(".gguf")) {
        let Part { model, number, n_parts } = Part::of(name);
        let model = models.entry(model).or_insert_with(|| GgufModel { n_parts, parts: BTreeMap::new() });
        model.parts.insert(number, name.clone());
    }
    models
}

/// One of the files that a model is split into.
struct Part {
    /// What their names share.
    model: String,
    number: usize,
    n_parts: usize,
}

impl Part {
    /// Reads `NAME-00001-of-00003.gguf`; other files are the only part of theirs.
    fn of(file: &str) -> Self {
        let split = || {
            let stem = file.get(..file.len() - ".gguf".len())?;
            let (rest, n_parts) = stem.rsplit_once("-of-")?;
            let (model, number) = rest.rsplit_once('-')?;
            let number_of = |text: &str| text.parse().ok().filter(|_| text.len() == 5);
            Some(Self {
                model: format!("{model}-of-{n_parts}"),
                number: number_of(number)?,
                n_parts: number_of(n_parts)?,
            })
        };
        split().unwrap_or_else(|| Self { model: file.to_owned(), number: 1, n_parts: 1 })
    }
}

fn whose_part<'a>(models: &'a BTreeMap<String, GgufModel>, file: &str) -> Vec<&'a GgufModel> {
    models.values().filter(|model| model.parts.values().any(|part| part == file)).collect()
}

/// Models whose name has the label, as a word of its own if there are such: `F16` is not `BF16` where there are both.
fn labelled<'a>(models: &'a BTreeMap<String, GgufModel>, label: &str) -> Vec<&'a GgufModel> {
    let label = label.to_lowercase();
    let with = |is_match: fn(&str, &str) -> bool| -> Vec<&GgufModel> {
        let has_label = |model: &&GgufModel| {
            let name = model.name().to_lowercase();
            let file = name.rsplit('/').next().unwrap_or_default();
            !COMPANIONS.iter().any(|companion| file.contains(companion)) && is_match(&name, &label)
        };
        models.values().filter(has_label).collect()
    };
    let words = with(has_word);
    if words.is_empty() { with(|name, label| name.contains(label)) } else { words }
}

/// Whether `label` stands in `name` between other characters than those of labels.
fn has_word(name: &str, label: &str) -> bool {
    let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    name.match_indices(label).any(|(start, found)| {
        is_edge(name[..start].chars().next_back()) && is_edge(name[start + found.len()..].chars().next())
    })
}

fn listed<'a>(models: impl ExactSizeIterator<Item = &'a GgufModel>) -> String {
    let more = if models.len() > N_LISTED_MAX { ", ..." } else { "" };
    models.take(N_LISTED_MAX).map(GgufModel::name).collect::<Vec<_>>().join(", ") + more
}

/// Files of a model folder, weights last.
fn folder(names: &[String]) -> Vec<String> {
    let small = names.iter().filter(|name| is_small(name));
    small.chain(names.iter().filter(|name| is_weights(name))).cloned().collect()
}

fn is_small(name: &str) -> bool {
    let is_root = !name.contains('/');
    let is_tokenizer = name.starts_with("tokenizer") && name.ends_with(".json");
    is_root && (SMALL.contains(&name) || name == INDEX || is_tokenizer || name.starts_with("chat_template."))
}

/// Whether a file holds weights as this program reads them; `consolidated` ones hold the same again for other programs.
pub(super) fn is_weights(name: &str) -> bool {
    !name.contains('/') && name.ends_with(".safetensors") && !name.starts_with("consolidated")
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTISED: [&str; 7] = [
        "README.md",
        "m-BF16.gguf",
        "m-F16.gguf",
        "m-Q4_K_M.gguf",
        "m-Q4_K_S.gguf",
        "mmproj-m-Q8_0.gguf",
        "big/m-Q8_0-00001-of-00002.gguf",
    ];

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[track_caller]
    fn check(names: &[&str], wanted: Option<&str>, expected: Result<&[&str], &str>) {
        let got = Choice::new(&owned(names), wanted);
        match expected {
            Ok(files) => assert_eq!(got.unwrap().files, owned(files)),
            Err(part) => {
                let error = got.expect_err("a refusal").to_string();
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn labels_pick_the_one_file_that_has_them() {
        check(&QUANTISED, Some("q4_k_m"), Ok(&["m-Q4_K_M.gguf"]));
        check(&QUANTISED, Some("m-Q4_K_S.gguf"), Ok(&["m-Q4_K_S.gguf"]));
        check(&QUANTISED, Some("F16"), Ok(&["m-F16.gguf"]));
        check(&QUANTISED, Some("mmproj-m-Q8_0.gguf"), Ok(&["mmproj-m-Q8_0.gguf"]));
        check(&QUANTISED, Some("Q4_K"), Err("m-Q4_K_M.gguf, m-Q4_K_S.gguf"));
        check(&QUANTISED, Some("Q2_K"), Err("m-BF16.gguf, m-F16.gguf"));
        check(&QUANTISED, None, Ok(&["m-Q4_K_M.gguf"]));
        check(&["a.gguf"], None, Ok(&["a.gguf"]));
        check(&["a-Q2_K.gguf", "b-Q8_0.gguf"], None, Err("a-Q2_K.gguf, b-Q8_0.gguf"));
    }

    #[test]
    fn split_files_come_whole_or_not_at_all() {
        let parts = ["q/m-Q8_0-00002-of-00002.gguf", "q/m-Q8_0-00001-of-00002.gguf"];
        let sorted = ["q/m-Q8_0-00001-of-00002.gguf", "q/m-Q8_0-00002-of-00002.gguf"];
        check(&parts, Some("Q8_0"), Ok(&sorted));
        check(&parts, Some(parts[0]), Ok(&sorted));
        assert_eq!(Choice::new(&owned(&parts), None).unwrap().opened.as_deref(), Some(sorted[0]));
        check(&QUANTISED, Some("Q8_0"), Err("2 parts"));
        check(&["m-00001-of-99999.gguf"], None, Err("99999 parts"));
    }

    #[test]
    fn folders_bring_what_is_read_of_them_and_their_weights_last() {
        let names = [
            "model.safetensors",
            "README.md",
            "config.json",
            "tokenizer.json",
            "onnx/model.safetensors",
            "consolidated.safetensors",
            "pytorch_model.bin",
            "chat_template.jinja",
            "m-Q4_K_M.gguf",
        ];
        let folder = ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"];
        check(&names, None, Ok(&folder));
        check(&names, Some("Q4_K_M"), Ok(&["m-Q4_K_M.gguf"]));
        check(&["pytorch_model.bin", "config.json"], None, Err("neither"));
        check(&["model.safetensors"], Some("Q4_K_M"), Err("neither"));
        check(&[], None, Err("neither"));
    }
}
