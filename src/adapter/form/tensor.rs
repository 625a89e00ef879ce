//! One tensor of a form: an input of the unmerged graph.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use ndarray::{Array, Array1, Array2, Dimension};

use crate::adapter::{AdapterError, ModuleWeights};

/// A tensor that a form's nodes use, and how its values are found.
pub struct FormTensor<'a> {
    /// The name of the graph's input.
    pub name: TensorName,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// How the graph uses it.
    pub role: TensorRole,
    /// The axis that may have another size in an adapter that's bound later: the rank.
    pub rank_axis: Option<usize>,
    values: TensorValues<'a>,
}

/// The name of a [`FormTensor`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TensorName {
    /// The key in the adapter's file.
    Key(String),
    /// A tensor that's computed from those of the file: this, after `<prefix><path>.<method>.`
    Derived(&'static str),
}

/// How the graph uses a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorRole {
    /// Read whole in every step; zeros have no effect.
    Term,
    /// Read whole in every step; ones have no effect.
    Factor,
    /// Read whole in every step; no constant is without effect: a rotation.
    Map,
    /// Read in place of a parameter of the base.
    InPlace,
    /// An embedding table, of which a step reads one row or column.
    Table,
    /// Read in prefill only.
    Prefill,
}

impl TensorRole {
    /// The constant that makes a tensor of this role have no effect, if there's one.
    pub fn neutral(self) -> Option<f32> {
        match self {
            Self::Term | Self::Table => Some(0.0),
            Self::Factor => Some(1.0),
            Self::Map | Self::InPlace | Self::Prefill => None,
        }
    }

    /// Whether a decode step reads all of it, in addition to the base's parameters.
    pub fn adds_reads(self) -> bool {
        matches!(self, Self::Term | Self::Factor | Self::Map)
    }
}

/// Computes the values from the module that the tensor belongs to.
type Derive<'a> = Box<dyn Fn(&BaseModule) -> Result<Vec<f32>, AdapterError> + Send + Sync + 'a>;

enum TensorValues<'a> {
    Given(Cow<'a, [f32]>),
    Derived(Derive<'a>),
}

impl fmt::Debug for FormTensor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let mut debug = formatter.debug_struct("FormTensor");
        debug.field("name", &self.name).field("shape", &self.shape);
        debug.field("role", &self.role).finish_non_exhaustive()
    }
}

impl<'a> FormTensor<'a> {
    /// A tensor of the file, unchanged.
    pub fn stored<D: Dimension>(key: &str, array: &'a Array<f32, D>, role: TensorRole) -> Self {
        let values = match array.as_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(array.iter().copied().collect()),
        };
        Self {
            name: TensorName::Key(key.to_owned()),
            shape: array.shape().to_vec(),
            role,
            rank_axis: None,
            values: TensorValues::Given(values),
        }
    }

    /// A tensor of the file times a constant.
    pub fn scaled<D: Dimension>(
        key: &str,
        array: &'a Array<f32, D>,
        scaling: f32,
        role: TensorRole,
    ) -> Self {
        Self {
            values: TensorValues::Derived(Box::new(move |_| {
                Ok(array.iter().map(|value| value * scaling).collect())
            })),
            ..Self::stored(key, array, role)
        }
    }

    /// A tensor that `derive` computes from the adapter alone, or from the module that it belongs
    /// to.
    pub fn derived(
        name: &'static str,
        shape: &[usize],
        role: TensorRole,
        derive: impl Fn(&BaseModule) -> Result<Vec<f32>, AdapterError> + Send + Sync + 'a,
    ) -> Self {
        Self {
            name: TensorName::Derived(name),
            shape: shape.to_vec(),
            role,
            rank_axis: None,
            values: TensorValues::Derived(Box::new(derive)),
        }
    }

    /// Sets the name to the file's `key`.
    pub fn keyed(mut self, key: &str) -> Self {
        self.name = TensorName::Key(key.to_owned());
        self
    }

    /// Marks `axis` as the rank, whose size isn't fixed in the graph.
    pub fn with_rank_axis(mut self, axis: usize) -> Self {
        self.rank_axis = Some(axis);
        self
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its elements, in row-major order.
    ///
    /// # Errors
    /// If the module's parameters are needed and can't be read, or can't be used.
    pub fn values(&self, base: &BaseModule) -> Result<Cow<'_, [f32]>, AdapterError> {
        match &self.values {
            TensorValues::Given(values) => Ok(Cow::Borrowed(values)),
            TensorValues::Derived(derive) => {
                let values = derive(base)?;
                assert_eq!(values.len(), self.elements(), "values of {:?}", self.name);
                Ok(Cow::Owned(values))
            }
        }
    }

    /// The elements as a vector.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn vector(&self, base: &BaseModule) -> Result<Array1<f32>, AdapterError> {
        Ok(self.values(base)?.into_owned().into())
    }

    /// The elements as a matrix.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn matrix(&self, base: &BaseModule) -> Result<Array2<f32>, AdapterError> {
        let &[rows, columns] = self.shape.as_slice() else {
            panic!("{:?} is no matrix", self.name);
        };
        let values = self.values(base)?.into_owned();
        Ok(Array2::from_shape_vec((rows, columns), values).expect("`values` checks the count"))
    }
}

/// The elements of `array` in row-major order, whatever its memory layout.
pub fn elements<D: Dimension>(array: &Array<f32, D>) -> Vec<f32> {
    array.iter().copied().collect()
}

/// Reads the module's parameters.
type Read<'a> = Box<dyn Fn() -> Result<ModuleWeights, AdapterError> + 'a>;

/// The parameters of a module of the base, read when they're first needed.
pub struct BaseModule<'a> {
    read: Read<'a>,
    found: OnceCell<ModuleWeights>,
}

impl<'a> BaseModule<'a> {
    /// A module whose parameters `read` returns.
    pub fn reading(read: impl Fn() -> Result<ModuleWeights, AdapterError> + 'a) -> Self {
        Self {
            read: Box::new(read),
            found: OnceCell::new(),
        }
    }

    /// A module in memory.
    pub fn of(weights: ModuleWeights) -> Self {
        Self {
            read: Box::new(|| unreachable!("the weights are in memory")),
            found: OnceCell::from(weights),
        }
    }

    fn weights(&self) -> Result<&ModuleWeights, AdapterError> {
        if let Some(found) = self.found.get() {
            return Ok(found);
        }
        let read = (self.read)()?;
        Ok(self.found.get_or_init(|| read))
    }

    /// `[out_features, in_features]`, or `[num_embeddings, embedding_dim]`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn weight(&self) -> Result<&Array2<f32>, AdapterError> {
        Ok(&self.weights()?.weight)
    }

    /// `[out_features]`, if the module has one.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn bias(&self) -> Result<Option<&Array1<f32>>, AdapterError> {
        Ok(self.weights()?.bias.as_ref())
    }

    /// The parameters, if they have been read.
    pub fn into_weights(self) -> Option<ModuleWeights> {
        self.found.into_inner()
    }
}
