//! Networks that an adapter adds to the model as a whole, not to single modules.

use std::fmt::Debug;

use super::form::FormTensor;
use crate::arch::{DecoderSpec, Layer};
use crate::graph::{BeforeLayers, Carried, GraphBuilder, Value};

/// A network that runs with the decoder.
pub trait SideNetwork: Debug + Send + Sync {
    /// Its tensors.
    fn tensors(&self) -> Vec<FormTensor<'_>>;

    /// The layers with caches of their own that it adds to those of `spec`.
    fn layers<'a>(&'a self, spec: &'a DecoderSpec) -> &'a [Layer];

    /// Whether these are the decoder's own layers, run a second time.
    fn repeats_decoder(&self) -> bool {
        false
    }

    /// Its decoder's parameters, as inputs of the graph.
    fn parameters(&self) -> Vec<SideParameter<'_>> {
        Vec::new()
    }

    /// Adds the nodes in front of the decoder's layers.
    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried;

    /// Changes the input of layer `index`; see
    /// [`Adaptation::enter_layer`](crate::graph::Adaptation::enter_layer).
    fn enter_layer(
        &self,
        _graph: &mut GraphBuilder,
        _index: usize,
        _hidden: &Value,
        _state: &mut Value,
    ) -> Option<Value> {
        None
    }
}

/// A parameter of a side network's decoder.
#[derive(Debug)]
pub struct SideParameter<'a> {
    /// Its name among the graph's parameters.
    pub name: String,
    /// The name of the graph's input that holds it.
    pub input: &'a str,
    /// Row-major shape.
    pub shape: &'a [usize],
    /// Whether it's a linear layer's weight stored as `[in_features, out_features]`.
    pub is_stored_in_out: bool,
}
