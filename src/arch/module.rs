//! Modules with parameters (linear layers, embeddings, norms), and how adapters see them.

use super::DecoderSpec;

/// `y = W x + b`
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Module path, as adapters target it.
    pub path: String,
    /// Module path in the checkpoint, whose tensors it uses.
    pub source: String,
    /// Columns of the weight.
    pub in_features: usize,
    /// Rows of the weight.
    pub out_features: usize,
    /// Whether the checkpoint has a bias.
    pub bias: bool,
    /// Whether the weight (not the bias) is the embedding's.
    pub tied: bool,
    /// How the checkpoint stores the weight.
    pub stored: Stored,
    /// The key of `config.json` that gives this layer, and perhaps others, a bias.
    pub bias_key: Option<&'static str>,
    /// The output, bias included, is multiplied by this.
    pub output_scale: Option<f64>,
}

impl Linear {
    /// A layer whose path in the checkpoint is the same, stored as `[out_features, in_features]`.
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
            output_scale: None,
        }
    }

    /// Path and source, mutable.
    pub(super) fn names_mut(&mut self) -> (&mut String, &mut String) {
        (&mut self.path, &mut self.source)
    }

    /// Sets the key that gives it a bias.
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

/// A table with one row per token or position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding {
    /// Module path, as adapters target it.
    pub path: String,
    /// Module path in the checkpoint, whose tensor it uses.
    pub source: String,
    /// Rows.
    pub num_embeddings: usize,
    /// Width of a row.
    pub embedding_dim: usize,
}

/// A normalization over the last axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Module path, as adapters target it.
    pub path: String,
    /// Module path in the checkpoint, whose tensors it uses.
    pub source: String,
    /// Width.
    pub size: usize,
    /// Its kind.
    pub kind: NormKind,
    /// Added to the variance.
    pub epsilon: f64,
}

/// A parameter that belongs to no linear layer, embedding or norm: a router's correction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainParameter {
    /// Path of the module that holds it.
    pub path: String,
    /// That module's path in the checkpoint.
    pub source: String,
    /// Its name.
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The kind of normalization, and its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `x / sqrt(mean(x^2) + eps) * weight`
    Rms,
    /// `x / sqrt(mean(x^2) + eps) * (1 + weight)`
    RmsPlusOne,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`
    Layer,
    /// `(x - mean(x)) / sqrt(var(x) + eps) * (1 + weight) + bias`
    LayerPlusOne,
    /// LayerNorm without bias.
    LayerWithoutBias,
    /// LayerNorm without parameters.
    LayerWithoutParameters,
    /// `x / sqrt(mean(x^2) + eps)`
    RmsWithoutParameters,
}

impl NormKind {
    /// Names of its parameters.
    pub fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Rms | Self::RmsPlusOne | Self::LayerWithoutBias => &["weight"],
            Self::Layer | Self::LayerPlusOne => &["weight", "bias"],
            Self::LayerWithoutParameters | Self::RmsWithoutParameters => &[],
        }
    }

    /// Whether 1 is added to the stored weight.
    pub fn adds_one(self) -> bool {
        matches!(self, Self::RmsPlusOne | Self::LayerPlusOne)
    }
}

/// A module with parameters, as adapters see it.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Module path, as adapters target it.
    pub path: String,
    /// Module path in the checkpoint, whose tensors it uses.
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
        /// Whether the weight (not the bias) is the embedding's.
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
    /// A matrix of a router or an expert, `[out_features, in_features]`, for which Transformers has
    /// no linear module.
    Routed {
        /// Columns of the weight.
        in_features: usize,
        /// Rows of the weight.
        out_features: usize,
        /// Whether the base has a bias.
        bias: bool,
        /// How the checkpoint stores the weight.
        stored: Stored,
        /// Whether it's a linear layer that returns more than its output: `all-linear` selects it.
        is_linear: bool,
        /// `[read, total]`: experts that a token uses, of the layer's experts.
        share: [usize; 2],
    },
    /// A convolution of each channel over positions.
    Convolution {
        /// Number of channels.
        channels: usize,
        /// Number of positions that an output depends on.
        kernel: usize,
        /// Whether the base has a bias.
        bias: bool,
    },
    /// A normalization.
    Norm {
        /// Shape of its parameters: `[width]`, or `[heads, head_dim]`.
        shape: Vec<usize>,
        /// Its kind.
        kind: NormKind,
    },
    /// A parameter of the module at this path, which itself is none of these.
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// The parameters of [`Activation::Xielu`](super::Activation::Xielu).
    Xielu,
}

impl Module {
    /// Names of its parameters and their shapes in the checkpoint, `weight` first.
    pub fn parameters(&self) -> Vec<(&'static str, Vec<usize>)> {
        match &self.kind {
            &ModuleKind::Linear {
                in_features,
                out_features,
                bias,
                stored,
                ..
            }
            | &ModuleKind::Routed {
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
            &ModuleKind::Convolution {
                channels,
                kernel,
                bias,
            } => {
                let mut all = vec![("weight", vec![channels, 1, kernel])];
                if bias {
                    all.push(("bias", vec![channels]));
                }
                all
            }
            ModuleKind::Norm { shape, kind } => kind
                .parameters()
                .iter()
                .map(|&name| (name, shape.clone()))
                .collect(),
            ModuleKind::Parameter { name, shape } => vec![(*name, shape.clone())],
            ModuleKind::Xielu => vec![
                ("alpha_p", vec![1]),
                ("alpha_n", vec![1]),
                ("beta", vec![]),
                ("eps", vec![]),
            ],
        }
    }

    /// Whether Transformers keeps `name` as a buffer: it's stored with the parameters, and doesn't
    /// count as one.
    pub fn is_buffer(&self, name: &str) -> bool {
        match &self.kind {
            ModuleKind::Xielu => ["beta", "eps"].contains(&name),
            // ERNIE 4.5's correction, a row, is a parameter.
            ModuleKind::Parameter { name, shape } => {
                let of_vectors = ["e_score_correction_bias", "expert_bias", "layer_scalar"];
                of_vectors.contains(name) && shape.len() == 1
            }
            _ => false,
        }
    }

    /// The name in the checkpoint of its parameter `name`.
    pub fn tensor(&self, name: &str) -> String {
        let own_bias = name == "bias" && matches!(self.kind, ModuleKind::Linear { tied: true, .. });
        let source = if own_bias { &self.path } else { &self.source };
        format!("{source}.{name}")
    }

    /// Size of its weight, if that's a matrix: `[out_features, in_features]`, or `[tokens, width]`.
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
            ModuleKind::Convolution { .. }
            | ModuleKind::Norm { .. }
            | ModuleKind::Parameter { .. }
            | ModuleKind::Xielu => None,
        }
    }

    /// Its path in a checkpoint written for `spec`. Routers and experts get the names that the
    /// family's checkpoints use, with their own layer's number (a replicated layer's tensors have
    /// the original's).
    pub fn stored_path(&self, spec: &DecoderSpec) -> String {
        let own = spec.stored_name(&self.path);
        if !matches!(
            self.kind,
            ModuleKind::Routed { .. } | ModuleKind::Parameter { .. }
        ) {
            return own;
        }
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let mut own = own.split('.');
        let parts = self.source.split('.').map(|stored| match own.next() {
            Some(own) if is_number(own) => own,
            // The stored name may have more parts, such as `router.layer`.
            _ => stored,
        });
        parts.collect::<Vec<&str>>().join(".")
    }

    /// Whether it has a weight stored as `[in_features, out_features]`.
    pub fn is_stored_in_out(&self) -> bool {
        matches!(
            self.kind,
            ModuleKind::Linear {
                stored: Stored::InOut,
                ..
            } | ModuleKind::Routed {
                stored: Stored::InOut,
                ..
            }
        )
    }
}

impl Embedding {
    /// A table whose path in the checkpoint is the same.
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
    /// A norm whose path in the checkpoint is the same.
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
    /// The module that adapters see.
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
    /// The module that adapters see.
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

impl PlainParameter {
    /// A parameter whose path in the checkpoint is the same.
    pub fn new(path: String, name: &'static str, shape: Vec<usize>) -> Self {
        Self {
            source: path.clone(),
            path,
            name,
            shape,
        }
    }

    /// Its name, from the model's root on.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.path, self.name)
    }

    /// Path and source, mutable.
    pub fn names_mut(&mut self) -> (&mut String, &mut String) {
        (&mut self.path, &mut self.source)
    }

    /// The module that holds it, with this parameter alone.
    pub(super) fn module(&self) -> Module {
        Module {
            path: self.path.clone(),
            source: self.source.clone(),
            kind: ModuleKind::Parameter {
                name: self.name,
                shape: self.shape.clone(),
            },
        }
    }
}
