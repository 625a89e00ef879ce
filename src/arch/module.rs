//! What has parameters: linear layers, tables, norms; and how adapters see them.

use super::DecoderSpec;

/// `y = W x + b`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensors it uses.
    pub source: String,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Whether the checkpoint has a bias.
    pub bias: bool,
    /// Whether its weight is to be another module's, the embedding's. Its bias isn't.
    pub tied: bool,
    /// How the checkpoint stores `W`.
    pub stored: Stored,
    /// The key of `config.json` that gives it a bias, and others with it.
    pub bias_key: Option<&'static str>,
}

impl Linear {
    /// A layer whose tensors have its own name, as most checkpoints store it.
    pub fn new(path: String, out_features: usize, in_features: usize, bias: bool) -> Self {
        Self {
            source: path.clone(),
            path,
            in_features,
            out_features,
            bias,
            tied: false,
            stored: Stored::OutIn,
            bias_key: None,
        }
    }

    /// The same with the key that gives it a bias.
    pub fn with_bias_key(self, key: &'static str) -> Self {
        Self {
            bias_key: Some(key),
            ..self
        }
    }
}

/// How a checkpoint stores the weight of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// `[out_features, in_features]`, PyTorch's `Linear`.
    OutIn,
    /// `[in_features, out_features]`, Transformers' `Conv1D`.
    InOut,
}

/// A table with a row a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensor it uses.
    pub source: String,
    /// Rows.
    pub num_embeddings: usize,
    /// Width of a row.
    pub embedding_dim: usize,
}

/// Normalisation over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensors it uses.
    pub source: String,
    /// Width.
    pub size: usize,
    /// Which one.
    pub kind: NormKind,
    /// Added to the variance.
    pub epsilon: f64,
}

/// Which normalisation, and which parameters it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms,
    /// `x / sqrt(mean(x^2) + eps) * (1 + weight)`
    RmsPlusOne,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer,
    /// The same without bias.
    LayerWithoutBias,
    /// The same without weight and bias.
    LayerWithoutParameters,
}

impl NormKind {
    /// Names of its parameters.
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Rms | Self::RmsPlusOne | Self::LayerWithoutBias => &["weight"],
            Self::Layer => &["weight", "bias"],
            Self::LayerWithoutParameters => &[],
        }
    }
}

/// A module with parameters, as adapters see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Place in the model.
    pub path: String,
    /// Module of the checkpoint whose tensors it uses.
    pub source: String,
    /// What it is.
    pub kind: ModuleKind,
}

/// What a module is.
#[derive(Debug, Clone, PartialEq)]
pub enum ModuleKind {
    /// A linear layer.
    Linear {
        /// Columns of the weight.
        in_features: usize,
        /// Rows of the weight.
        out_features: usize,
        /// Whether the base has a bias.
        bias: bool,
        /// Whether its weight is to be another module's, the embedding's. Its bias isn't.
        tied: bool,
        /// How the checkpoint stores the weight.
        stored: Stored,
    },
    /// The token embedding, or another table.
    Embedding {
        /// Rows.
        num_embeddings: usize,
        /// Width of a row.
        embedding_dim: usize,
    },
    /// A matrix of a router or an expert, `[out_features, in_features]`, which Transformers has no linear layer for.
    Routed {
        /// Columns of the weight.
        in_features: usize,
        /// Rows of the weight.
        out_features: usize,
        /// How many of so many are read for a token.
        share: [usize; 2],
    },
    /// A normalisation.
    Norm {
        /// Shape of its parameters: its width, or heads and their width.
        shape: Vec<usize>,
        /// Which one.
        kind: NormKind,
    },
}

impl Module {
    /// Names of its parameters and their shapes as the checkpoint stores them, `weight` first.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>)> {
        match &self.kind {
            &ModuleKind::Linear {
                in_features,
                out_features,
                bias,
                stored,
                ..
            } => {
                let shape = match stored {
                    Stored::OutIn => vec![out_features, in_features],
                    Stored::InOut => vec![in_features, out_features],
                };
                let mut all = vec![("weight", shape)];
                if bias {
                    all.push(("bias", vec![out_features]));
                }
                all
            }
            &ModuleKind::Embedding {
                num_embeddings,
                embedding_dim,
            } => vec![("weight", vec![num_embeddings, embedding_dim])],
            &ModuleKind::Routed {
                in_features,
                out_features,
                ..
            } => vec![("weight", vec![out_features, in_features])],
            ModuleKind::Norm { shape, kind } => kind
                .parameters()
                .iter()
                .map(|&name| (name, shape.clone()))
                .collect(),
        }
    }

    /// The tensor of the checkpoint that is its parameter `name`.
    pub fn tensor(&self, name: &str) -> String {
        let own_bias = name == "bias" && matches!(self.kind, ModuleKind::Linear { tied: true, .. });
        let source = if own_bias { &self.path } else { &self.source };
        format!("{source}.{name}")
    }

    /// Rows and columns of its weight, if that's a matrix: of outputs and inputs, or of tokens and their width.
    pub fn matrix_size(&self) -> Option<[usize; 2]> {
        match self.kind {
            ModuleKind::Linear {
                in_features,
                out_features,
                ..
            }
            | ModuleKind::Routed {
                in_features,
                out_features,
                ..
            } => Some([out_features, in_features]),
            ModuleKind::Embedding {
                num_embeddings,
                embedding_dim,
            } => Some([num_embeddings, embedding_dim]),
            ModuleKind::Norm { .. } => None,
        }
    }

    /// Its place in a checkpoint of `spec`: of routers and experts the name that the family's checkpoints have, with the
    /// number of its own layer, which another layer's tensors may serve.
    pub fn stored_path(&self, spec: &DecoderSpec) -> String {
        let own = spec.stored_name(&self.path);
        if !matches!(self.kind, ModuleKind::Routed { .. }) {
            return own;
        }
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let parts = self.source.split('.').zip(own.split('.'));
        let parts = parts.map(|(stored, own)| if is_number(own) { own } else { stored });
        parts.collect::<Vec<&str>>().join(".")
    }

    /// Whether it's a linear layer that is stored as `[in_features, out_features]`.
    pub fn is_stored_in_out(&self) -> bool {
        matches!(
            self.kind,
            ModuleKind::Linear {
                stored: Stored::InOut,
                ..
            }
        )
    }
}

impl Embedding {
    /// A table whose tensor has its own name.
    pub fn new(path: &str, num_embeddings: usize, embedding_dim: usize) -> Self {
        Self {
            path: path.to_owned(),
            source: path.to_owned(),
            num_embeddings,
            embedding_dim,
        }
    }
}

impl Norm {
    /// A norm whose tensors have its own name.
    pub fn new(path: String, size: usize, kind: NormKind, epsilon: f64) -> Self {
        Self {
            source: path.clone(),
            path,
            size,
            kind,
            epsilon,
        }
    }
}

impl Linear {
    /// The same as adapters see it.
    pub fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Linear {
                in_features: self.in_features,
                out_features: self.out_features,
                bias: self.bias,
                tied: self.tied,
                stored: self.stored,
            },
        }
    }
}

impl Embedding {
    /// The same as adapters see it.
    pub fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Embedding {
                num_embeddings: self.num_embeddings,
                embedding_dim: self.embedding_dim,
            },
        }
    }
}

impl Norm {
    pub(super) fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Norm {
                shape: vec![self.size],
                kind: self.kind,
            },
        }
    }
}
