//! Writes GGUF files, wrong ones included.

/// Type of values and of elements of arrays.
pub const U8: u32 = 0;
pub const I16: u32 = 3;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const FLAG: u32 = 7;
pub const TEXT: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;
pub const F64: u32 = 12;

/// A file in the making.
#[derive(Clone)]
pub struct Writer {
    pub version: u32,
    /// Of tensors.
    pub alignment: usize,
    /// Written instead of the number of keys.
    pub n_keys: Option<u64>,
    /// Written instead of the number of tensors.
    pub n_tensors: Option<u64>,
    /// Key, type and value.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

/// A tensor as the file's table has it.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// The fastest first.
    pub dims: Vec<u64>,
    pub type_id: u32,
    /// Where it lies, if not behind the one before.
    pub offset: Option<u64>,
    pub bytes: Vec<u8>,
}

impl Default for Writer {
    fn default() -> Self {
        let (keys, tensors) = (Vec::new(), Vec::new());
        Self { version: 3, alignment: 32, n_keys: None, n_tensors: None, keys, tensors }
    }
}

impl Writer {
    /// A key with a value of a type, as bytes. It takes the place of the key before, if there is one.
    pub fn value(&mut self, key: &str, type_id: u32, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.keys.retain(|(found, ..)| found != key);
        self.second_value(key, type_id, bytes)
    }

    /// A key that may be there already.
    pub fn second_value(&mut self, key: &str, type_id: u32, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.keys.push((key.to_string(), type_id, bytes.as_ref().to_vec()));
        self
    }

    pub fn without(&mut self, key: &str) -> &mut Self {
        self.keys.retain(|(found, ..)| found != key);
        self
    }

    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.value(key, U32, value.to_le_bytes())
    }

    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.value(key, F32, value.to_le_bytes())
    }

    pub fn text(&mut self, key: &str, value: &str) -> &mut Self {
        self.value(key, TEXT, text(value))
    }

    /// An array of `n` elements.
    pub fn array(&mut self, key: &str, type_id: u32, n: u64, elements: impl AsRef<[u8]>) -> &mut Self {
        self.value(key, ARRAY, array(type_id, n, elements))
    }

    /// A row-major tensor of `shape`.
    pub fn tensor(&mut self, name: &str, shape: &[usize], type_id: u32, bytes: Vec<u8>) -> &mut Self {
        let dims = shape.iter().rev().map(|&len| len as u64).collect();
        self.tensors.push(Tensor { name: name.to_string(), dims, type_id, offset: None, bytes });
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.n_tensors.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.n_keys.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, type_id, bytes) in &self.keys {
            file.extend(text(key));
            file.extend(type_id.to_le_bytes());
            file.extend(bytes);
        }
        let mut end = 0;
        for tensor in &self.tensors {
            file.extend(text(&tensor.name));
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            file.extend(tensor.dims.iter().flat_map(|len| len.to_le_bytes()));
            file.extend(tensor.type_id.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(end as u64).to_le_bytes());
            end = (end + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&tensor.bytes);
        }
        file
    }
}

/// A text in a file.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// An array in a file.
pub fn array(type_id: u32, n: u64, elements: impl AsRef<[u8]>) -> Vec<u8> {
    [&type_id.to_le_bytes()[..], &n.to_le_bytes(), elements.as_ref()].concat()
}

/// Numbers in a file.
pub fn f32s(numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    numbers.into_iter().flat_map(f32::to_le_bytes).collect()
}
