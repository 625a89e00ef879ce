//! External data: tensors whose bytes are in another file. Only this file reads and writes the
//! `external_data` entries of `TensorProto`.

use std::path::Path;

use super::proto::{Entry, Tensor};
use crate::weights::ByteSpan;

/// `TensorProto.DataLocation.EXTERNAL`
const EXTERNAL: i32 = 1;

impl Tensor {
    /// A tensor whose bytes are `span`. The file's path is stored relative to `folder`.
    pub fn external(
        name: &str,
        data_type: i32,
        dims: Vec<i64>,
        span: &ByteSpan,
        folder: &Path,
    ) -> Self {
        let mut tensor = Self {
            dims,
            data_type,
            name: name.to_owned(),
            ..Self::default()
        };
        tensor.set_span(span, folder);
        tensor
    }

    /// The span of the bytes, if they're in another file; its path is relative to `folder`.
    pub fn span(&self, folder: &Path) -> Option<ByteSpan> {
        let entry = |key: &str| {
            let entry = self.external_data.iter().find(|entry| entry.key == key);
            entry.map(|entry| entry.value.as_str())
        };
        Some(ByteSpan {
            path: folder.join(entry("location")?),
            offset: entry("offset")?.parse().ok()?,
            length: entry("length")?.parse().ok()?,
        })
    }

    /// Makes `span` the tensor's bytes. The file's path is stored relative to `folder`, so that
    /// both can be moved together.
    pub fn set_span(&mut self, span: &ByteSpan, folder: &Path) {
        let relative = pathdiff::diff_paths(&span.path, folder);
        let location = relative.unwrap_or_else(|| span.path.clone());
        self.raw_data = Vec::new();
        self.data_location = EXTERNAL;
        self.external_data = [
            ("location", location.to_string_lossy().into_owned()),
            ("offset", span.offset.to_string()),
            ("length", span.length.to_string()),
        ]
        .map(|(key, value)| Entry {
            key: key.to_owned(),
            value,
        })
        .to_vec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_back_whatever_folder_its_file_is_named_relative_to() {
        let span = ByteSpan {
            path: "/models/a/model.safetensors".into(),
            offset: 1 << 40,
            length: 12,
        };
        for (folder, location) in [
            ("/models/b/graph", "../../a/model.safetensors"),
            ("/", "models/a/model.safetensors"),
        ] {
            let folder = Path::new(folder);
            let tensor = Tensor::external("w", 1, vec![3], &span, folder);
            assert_eq!(tensor.external_data[0].value, location);
            let found = tensor.span(folder).unwrap();
            assert_eq!((found.offset, found.length), (span.offset, span.length));
            assert!(found.path.ends_with("a/model.safetensors"));
        }
        assert_eq!(Tensor::default().span(Path::new("/")), None);
    }
}
