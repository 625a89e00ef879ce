//! One tensor of a form: an input of the unmerged graph.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use ndarray::{Array, Array1, Array2, Dimension};

use crate::adapter::{AdapterError, ModuleWeights};

/// A tensor that a form's nodes take, and how its values are found.
pub struct Part<'a> {
    /// What the graph's input is called.
    pub name: PartName,
    /// Row-major shape.
    pub shape: Vec<usize>,
    /// What it does there.
    pub role: Role,
    /// The axis whose size may be another in an adapter that's bound later: the rank.
    pub rank_axis: Option<usize>,
    values: Values<'a>,
}

/// The name of a [`Part`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartName {
    /// The checkpoint's own key.
    Key(String),
    /// A tensor that was worked out from the checkpoint's: `<prefix><path>.<method>.` and this.
    Derived(&'static str),
}

/// What a tensor does in the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It's read whole in every step; zeros do nothing.
    Term,
    /// It's read whole in every step; ones do nothing.
    Factor,
    /// It's read whole in every step, and no constant does nothing: a rotation.
    Map,
    /// It's read in place of a parameter of the base.
    InPlace,
    /// A table of the vocabulary, of which a step reads one row or column.
    Table,
    /// It's read in prefill only.
    Prefill,
}

impl Role {
    /// The value that makes a tensor of this role do nothing, if a single one does.
    pub fn neutral(self) -> Option<f32> {
        match self {
            Self::Term | Self::Table => Some(0.0),
            Self::Factor => Some(1.0),
            Self::Map | Self::InPlace | Self::Prefill => None,
        }
    }

    /// Whether a decode step reads all of it, beyond what it reads of the base.
    pub fn adds_reads(self) -> bool {
        matches!(self, Self::Term | Self::Factor | Self::Map)
    }
}

/// Works values out, when they're needed, from the module that the adapter belongs to.
type Derive<'a> = Box<dyn Fn(&BaseModule) -> Result<Vec<f32>, AdapterError> + Send + Sync + 'a>;

enum Values<'a> {
    Given(Cow<'a, [f32]>),
    Derived(Derive<'a>),
}

impl fmt::Debug for Part<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let mut debug = formatter.debug_struct("Part");
        debug.field("name", &self.name).field("shape", &self.shape);
        debug.field("role", &self.role).finish_non_exhaustive()
    }
}

impl<'a> Part<'a> {
    /// A tensor of the checkpoint as it stands.
    pub fn stored<D: Dimension>(key: &str, array: &'a Array<f32, D>, role: Role) -> Self {
        let values = match array.as_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(array.iter().copied().collect()),
        };
        Self {
            name: PartName::Key(key.to_owned()),
            shape: array.shape().to_vec(),
            role,
            rank_axis: None,
            values: Values::Given(values),
        }
    }

    /// A tensor of the checkpoint times a constant.
    pub fn scaled<D: Dimension>(
        key: &str,
        array: &'a Array<f32, D>,
        scaling: f32,
        role: Role,
    ) -> Self {
        Self {
            values: Values::Derived(Box::new(move |_| {
                Ok(array.iter().map(|value| value * scaling).collect())
            })),
            ..Self::stored(key, array, role)
        }
    }

    /// A tensor that's worked out: of the adapter alone, or of the module that it belongs to.
    pub fn derived(
        name: &'static str,
        shape: &[usize],
        role: Role,
        derive: impl Fn(&BaseModule) -> Result<Vec<f32>, AdapterError> + Send + Sync + 'a,
    ) -> Self {
        Self {
            name: PartName::Derived(name),
            shape: shape.to_vec(),
            role,
            rank_axis: None,
            values: Values::Derived(Box::new(derive)),
        }
    }

    /// The same under a key of the checkpoint.
    pub fn keyed(mut self, key: &str) -> Self {
        self.name = PartName::Key(key.to_owned());
        self
    }

    /// The same with a rank that's known when the graph runs.
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
    /// If the module's parameters are needed and can't be read.
    pub fn values(&self, base: &BaseModule) -> Result<Cow<'_, [f32]>, AdapterError> {
        match &self.values {
            Values::Given(values) => Ok(Cow::Borrowed(values)),
            Values::Derived(derive) => {
                let values = derive(base)?;
                assert_eq!(values.len(), self.elements(), "values of {:?}", self.name);
                Ok(Cow::Owned(values))
            }
        }
    }

    /// As a vector.
    ///
    /// # Errors
    /// As [`values`](Self::values).
    pub fn vector(&self, base: &BaseModule) -> Result<Array1<f32>, AdapterError> {
        Ok(self.values(base)?.into_owned().into())
    }

    /// As a matrix.
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

/// The elements of `array` in row-major order, whatever its own.
pub fn elements<D: Dimension>(array: &Array<f32, D>) -> Vec<f32> {
    array.iter().copied().collect()
}

/// Reads a module's parameters.
type Read<'a> = Box<dyn Fn() -> Result<ModuleWeights, AdapterError> + 'a>;

/// The parameters of the module that an adapter belongs to, read when they're first asked for.
pub struct BaseModule<'a> {
    read: Read<'a>,
    found: OnceCell<ModuleWeights>,
}

impl<'a> BaseModule<'a> {
    /// A module that `read` gives.
    pub fn reading(read: impl Fn() -> Result<ModuleWeights, AdapterError> + 'a) -> Self {
        Self {
            read: Box::new(read),
            found: OnceCell::new(),
        }
    }

    /// A module that's in memory.
    pub fn of(weights: ModuleWeights) -> Self {
        Self {
            read: Box::new(|| unreachable!("the weights are there")),
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

    /// `[out_features]`, where the module has one.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn bias(&self) -> Result<Option<&Array1<f32>>, AdapterError> {
        Ok(self.weights()?.bias.as_ref())
    }

    /// The parameters, if they were read.
    pub fn into_weights(self) -> Option<ModuleWeights> {
        self.found.into_inner()
    }
}
