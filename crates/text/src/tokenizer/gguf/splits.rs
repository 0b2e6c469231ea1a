//! How byte-level vocabularies split texts into words, by the names that files have for it.
//!
//! A file says only the name; expressions and flags are facts about the models, here as in their own `tokenizer.json` files, which
//! llama.cpp's `llama-vocab.cpp` quotes. Deviation: where llama.cpp writes an expression in another way, because its engine lacks
//! classes of letters or folding of case, the original stands here.

/// How texts are split.
#[derive(Debug)]
pub(super) struct Splits {
    /// Names in files.
    names: &'static [&'static str],
    /// One after the other, each on what those before it left together.
    pub(super) expressions: &'static [&'static str],
    /// Whether a word that is a token stays one, whatever merges would make of it.
    pub(super) keeps_words: bool,
    /// Whether a token is put before plain text where the file says nothing of it.
    pub(super) begins: bool,
    /// Whether letters and their marks are composed before all else (Unicode's form NFC); llama.cpp leaves this out.
    pub(super) composes: bool,
}

impl Splits {
    const fn new(names: &'static [&'static str], expressions: &'static [&'static str]) -> Self {
        Self { names, expressions, keeps_words: false, begins: false, composes: false }
    }

    const fn that_keep_words(self) -> Self {
        Self { keeps_words: true, ..self }
    }

    const fn that_begin(self) -> Self {
        Self { begins: true, ..self }
    }

    const fn that_compose(self) -> Self {
        Self { composes: true, ..self }
    }
}

/// The splits of a name.
pub(super) fn named(name: &str) -> Option<&'static Splits> {
    SPLITS.iter().find(|splits| splits.names.contains(&name))
}

/// The first name of the splits by these expressions, with or without composing letters and keeping words.
pub(super) fn name_of(expressions: &[&str], composes: bool, keeps_words: bool) -> Option<&'static str> {
    let is_same = |splits: &&Splits| {
        splits.expressions == expressions && splits.composes == composes && splits.keeps_words == keeps_words
    };
    SPLITS.iter().find(is_same).map(|splits| splits.names[0])
}

/// All names, for messages.
pub(super) fn names() -> String {
    let mut names: Vec<&str> = SPLITS.iter().flat_map(|splits| splits.names).copied().collect();
    names.sort_unstable();
    names.join(", ")
}

/// All that are known.
const SPLITS: [Splits; 24] = [
    Splits::new(&["default"], &[PUNCTUATION, WORDS, r"\p{N}+", "[0-9][0-9][0-9]"]),
    Splits::new(
        &[
            "gpt-2",
            "phi-2",
            "jais",
            "exaone4",
            "gigachat",
            "mellum",
            "a.x-4.0",
            "trillion",
            "granite-docling",
        ],
        &[WORDS],
    ),
    Splits::new(&["mpt", "olmo"], &[WORDS]).that_compose(),
    Splits::new(
        &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", WORDS],
    ),
    Splits::new(&["command-r"], &[r"\p{N}", WORDS]).that_compose(),
    Splits::new(&["falcon"], &[FALCON_PUNCTUATION, WORDS, "[0-9][0-9][0-9]"]),
    Splits::new(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        &[THREE_DIGITS],
    )
    .that_keep_words()
    .that_begin(),
    Splits::new(&["glm4", "glm5"], &[THREE_DIGITS]).that_keep_words(),
    Splits::new(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[THREE_DIGITS]),
    Splits::new(&["minicpm5"], &[r"\p{N}{1,3}", MANY_DIGITS]).that_keep_words(),
    Splits::new(&["jais-2"], &[THREE_DIGITS_AND_CASCADE]),
    Splits::new(&["qwen2"], &[ONE_DIGIT]).that_compose(),
    Splits::new(
        &["deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[ONE_DIGIT],
    ),
    Splits::new(&["qwen35"], &[ONE_DIGIT_AND_MARKS]).that_compose(),
    Splits::new(&["ufakzeka"], &[ONE_DIGIT_NO_CONTRACTIONS]),
    Splits::new(&["laguna"], &[r"[^\n]+|[\n]+", ONE_DIGIT]),
    Splits::new(&["seed-coder"], &[SEED]),
    Splits::new(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    Splits::new(&["exaone-moe"], &[EXAONE_MOE]),
    Splits::new(&["tekken"], &[TEKKEN]).that_keep_words().that_begin(),
    Splits::new(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT_4O]),
    Splits::new(
        &["deepseek-llm"],
        &["[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+$", DEEPSEEK_IDEOGRAPHS, r"\p{N}+"],
    ),
    Splits::new(&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_IDEOGRAPHS, r"\p{N}"]),
    Splits::new(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[r"\p{N}{1,3}", DEEPSEEK_3_IDEOGRAPHS, DEEPSEEK_3],
    ),
];

/// GPT-2: words with the space before them, numbers likewise.
pub(super) const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}$+<=>^~|]+";
const FALCON_PUNCTUATION: &str = r"[\p{P}$+<=>^~|`]+";
const THREE_DIGITS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const MANY_DIGITS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// White space in runs of powers of two.
const THREE_DIGITS_AND_CASCADE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)",
    r"|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}",
);
const ONE_DIGIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const ONE_DIGIT_AND_MARKS: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const ONE_DIGIT_NO_CONTRACTIONS: &str =
    r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}",
    r"| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const BAILING: &str = concat!(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
);
const EXAONE_MOE: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
);
/// Words change at a capital letter.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const GPT_4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const DEEPSEEK_PUNCTUATION: &str =
    r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+";
const DEEPSEEK_IDEOGRAPHS: &str = r"[\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+";
const DEEPSEEK_3_IDEOGRAPHS: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";
const DEEPSEEK_3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Letters of the scripts with capitals.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}",
    r"\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}",
    r"\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}",
    r"\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}",
    r"\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}",
    r"\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}",
    r"\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}",
    r"\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}",
    r"\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}",
    r"\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}",
    r"\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}",
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}",
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_once_and_every_expression_is_one() {
        let mut names: Vec<&str> = SPLITS.iter().flat_map(|splits| splits.names).copied().collect();
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names);
        for expression in SPLITS.iter().flat_map(|splits| splits.expressions) {
            tokenizers::utils::SysRegex::new(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        }
    }
}
