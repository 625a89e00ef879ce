//! A method's own computation, as PEFT does it in every forward pass, in place of a reduced form.

use std::fmt;

use super::{FormTensor, Naming, linear::input};
use crate::graph::{Attr, GraphBuilder, LinearSite, Value};

/// How a method's own computation is exported.
#[derive(Debug)]
pub enum Native<'a> {
    /// It's the same as the reduced form.
    Reduced,
    /// It has nodes of its own.
    Own(NativeForm<'a>),
    /// It isn't implemented.
    Missing,
}

/// Adds the nodes of a linear layer, and returns its output.
type Build<'a> = Box<dyn Fn(&mut NativeSite) -> Value + Send + Sync + 'a>;

/// The nodes of a linear layer, and their tensors.
pub struct NativeForm<'a> {
    /// The checkpoint's tensors.
    pub tensors: Vec<FormTensor<'a>>,
    /// Whether the nodes use the base's weight itself, not only products with it.
    pub takes_weight: bool,
    build: Build<'a>,
}

impl fmt::Debug for NativeForm<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let mut debug = formatter.debug_struct("NativeForm");
        debug
            .field("tensors", &self.tensors)
            .finish_non_exhaustive()
    }
}

/// What `build` of a [`NativeForm`] gets: the place of the nodes, and tools to add them.
#[derive(Debug)]
pub struct NativeSite<'a, 'b, 'g> {
    /// The graph.
    pub graph: &'a mut GraphBuilder<'g>,
    /// The module's path.
    pub path: &'b str,
    /// The layer's input, `[batch, sequence, in_features]`.
    pub x: &'b Value,
    /// The weights of each token's adapters, if the method has any.
    token_gate: Option<&'b Value>,
    /// The graph's inputs for the form's tensors.
    pub inputs: Vec<Value>,
}

impl<'a> NativeForm<'a> {
    /// A form whose nodes `build` adds from `tensors`. It returns the layer's output, bias included.
    pub fn new(
        tensors: Vec<FormTensor<'a>>,
        build: impl Fn(&mut NativeSite) -> Value + Send + Sync + 'a,
    ) -> Self {
        Self {
            tensors,
            takes_weight: false,
            build: Box::new(build),
        }
    }

    /// Marks the form as one that uses the base's [`weight`](NativeSite::weight).
    pub fn over_weight(mut self) -> Self {
        self.takes_weight = true;
        self
    }

    /// Adds the nodes; returns the layer's output, bias included.
    pub fn nodes(&self, graph: &mut GraphBuilder, naming: &Naming, site: &LinearSite) -> Value {
        let inputs = self
            .tensors
            .iter()
            .map(|tensor| input(graph, naming, tensor));
        let inputs = inputs.collect();
        (self.build)(&mut NativeSite {
            graph,
            path: site.path,
            x: site.x,
            token_gate: site.token_gate,
            inputs,
        })
    }
}

impl NativeSite<'_, '_, '_> {
    /// The full name of the node `name`.
    pub fn name(&self, name: &str) -> String {
        format!("/{}/adapter/{name}", self.path)
    }

    /// The base's weight, `[out_features, in_features]`, for forms made with
    /// [`NativeForm::over_weight`]. A quantized weight is dequantized in every run.
    pub fn weight(&mut self) -> Value {
        self.graph.weight(self.path, self.x)
    }

    /// Adds a standard operator.
    pub fn op(&mut self, op: &str, name: &str, inputs: &[&Value]) -> Value {
        let name = self.name(name);
        self.graph.op(op, &name, inputs, &[])
    }

    /// `x · wᵀ`
    pub fn matmul_transposed(&mut self, name: &str, x: &Value, w: &Value) -> Value {
        let name = self.name(name);
        self.graph.matmul_transposed(&name, x, w)
    }

    /// The base layer's product, without its bias.
    pub fn product(&mut self, x: &Value) -> Value {
        let name = format!("/{}/MatMul", self.path);
        self.graph.product(&name, self.path, x)
    }

    /// The product with `weight` in place of the base's, without the bias.
    pub fn product_with(&mut self, name: &str, x: &Value, weight: &Value) -> Value {
        let name = self.name(name);
        self.graph.product_with(&name, self.path, x, weight)
    }

    /// The base's layer, bias included.
    pub fn base(&mut self, x: &Value) -> Value {
        let product = self.product(x);
        self.biased(&product)
    }

    /// The layer with `weight` in place of the base's, and with the base's bias.
    pub fn linear(&mut self, x: &Value, weight: &Value) -> Value {
        let name = format!("/{}/MatMul", self.path);
        let product = self.graph.product_with(&name, self.path, x, weight);
        self.biased(&product)
    }

    /// `y + b` with the base's bias, or `y` if it has none.
    pub fn biased(&mut self, y: &Value) -> Value {
        match self.graph.find_parameter(&format!("{}.bias", self.path)) {
            Some(bias) => self.graph.add(&format!("/{}/Add", self.path), y, &bias),
            None => y.clone(),
        }
    }

    /// The base layer's output plus `delta`, of the same shape.
    pub fn base_plus(&mut self, delta: &Value) -> Value {
        let y = self.base(self.x);
        self.op("Add", "Add", &[&y, delta])
    }

    /// `x` cast to float32.
    pub fn to_f32(&mut self, name: &str, x: &Value) -> Value {
        let name = self.name(name);
        self.graph.to_f32(&name, x)
    }

    /// Euclidean norms along `axis`, which is dropped unless `kept`.
    pub fn norms(&mut self, name: &str, x: &Value, axis: i64, kept: bool) -> Value {
        let name = self.name(name);
        let axis = self
            .graph
            .constant_i64(&format!("axis_{axis}"), &[axis], false);
        let attrs = [("keepdims", Attr::Int(i64::from(kept)))];
        if !self.graph.on_gpu() {
            return self.graph.op("ReduceL2", &name, &[x, &axis], &attrs);
        }
        // On a GPU, `ReduceL2` needs cuDNN and has no bfloat16. Squares are summed in float32,
        // since they overflow in float16.
        let at = |what: &str| format!("{name}/{what}");
        let x = self.graph.to_f32(&at("x"), x);
        let squares = self.graph.mul(&at("squares"), &x, &x);
        let sum = self
            .graph
            .op("ReduceSum", &at("sum"), &[&squares, &axis], &attrs);
        let norms = self.graph.op("Sqrt", &at("float32"), &[&sum], &[]);
        self.graph.to_compute(&name, &norms)
    }

    /// The identity matrix.
    pub fn identity(&mut self, name: &str, size: usize) -> Value {
        let shape = self
            .graph
            .constant_i64(&format!("square_{size}"), &[size as i64; 2], false);
        let at = self.name(name);
        let zeros = self
            .graph
            .op("ConstantOfShape", &format!("{at}/zeros"), &[&shape], &[]);
        // ONNX Runtime computes it when the session is opened.
        let identity = self
            .graph
            .op("EyeLike", &format!("{at}/eye"), &[&zeros], &[]);
        self.graph.to_compute(&at, &identity)
    }

    /// The weights of each token's adapters, `[batch, sequence, n]`, for the positions of `x`.
    ///
    /// # Panics
    /// If the method didn't make them in front of the layers.
    pub fn token_gate(&mut self) -> Value {
        let gate = self
            .token_gate
            .expect("the method makes the gate in front of the layers");
        self.graph.gate_for(gate, self.x)
    }

    /// Multiplies block `i` of each token of `x`, `[batch, sequence, n * width]`, by `shares[i]`,
    /// `[batch, sequence, n]`.
    pub fn weigh_blocks(&mut self, name: &str, x: &Value, shares: &Value, width: usize) -> Value {
        let at = self.name(name);
        let graph = &mut *self.graph;
        let blocks = graph.reshape(&format!("{at}/split"), x, &[0, 0, -1, width as i64]);
        let axis = graph.constant_i64("last_axis", &[3], false);
        let shares = graph.op("Unsqueeze", &format!("{at}/shares"), &[shares, &axis], &[]);
        let blocks = graph.mul(&format!("{at}/Mul"), &blocks, &shares);
        graph.reshape(&at, &blocks, &[0, 0, -1])
    }

    /// Keeps the `count` largest values of the last axis; the others become `rest`.
    pub fn keep_largest(&mut self, name: &str, x: &Value, count: usize, rest: f32) -> Value {
        let at = self.name(name);
        keep_largest(self.graph, &at, x, count, rest)
    }

    /// The first `count` of the `all` slices of `x` along `axis`.
    pub fn first(&mut self, name: &str, x: &Value, axis: i64, count: usize, all: usize) -> Value {
        if count == all {
            return x.clone();
        }
        let name = self.name(name);
        let mut constant = |what: &str, value: i64| {
            let name = format!("{name}/{what}");
            self.graph.constant_i64(&name, &[value], false)
        };
        let (start, end) = (constant("start", 0), constant("end", count as i64));
        let axis = constant("axis", axis);
        let inputs = [x, &start, &end, &axis];
        self.graph.op("Slice", &name, &inputs, &[])
    }

    /// Slice `index` of `x` along `axis`, without that axis.
    pub fn nth(&mut self, name: &str, x: &Value, axis: i64, index: i64) -> Value {
        let name = self.name(name);
        let index = self
            .graph
            .constant_i64(&format!("scalar_{index}"), &[index], true);
        self.graph.gather(&name, x, &index, axis)
    }

    /// Slices of `x` along `axis`, in the given order.
    pub fn select(&mut self, name: &str, x: &Value, axis: i64, order: &[usize]) -> Value {
        let name = self.name(name);
        let order: Vec<i64> = order.iter().map(|&index| index as i64).collect();
        let order = self
            .graph
            .constant_i64(&format!("{name}/order"), &order, false);
        self.graph.gather(&name, x, &order, axis)
    }

    /// Reshapes `x`. 0 keeps an axis; −1 is inferred.
    pub fn reshape(&mut self, name: &str, x: &Value, shape: &[i64]) -> Value {
        let name = self.name(name);
        self.graph.reshape(&name, x, shape)
    }

    /// Permutes the axes of `x`.
    pub fn transpose(&mut self, name: &str, x: &Value, order: &[i64]) -> Value {
        let name = self.name(name);
        self.graph.transpose(&name, x, order)
    }

    /// A scalar constant.
    pub fn scalar(&mut self, name: &str, value: f32) -> Value {
        let name = self.name(name);
        self.graph.filled(&name, &[], value)
    }
}

/// Keeps the `count` largest values of the last axis of `x`; the others become `rest`. Among equal
/// values the first are kept.
pub fn keep_largest(
    graph: &mut GraphBuilder,
    name: &str,
    x: &Value,
    count: usize,
    rest: f32,
) -> Value {
    let [values, indices] = graph.largest(&format!("{name}/TopK"), x, count);
    let shape = graph.op("Shape", &format!("{name}/shape"), &[x], &[]);
    let rest = graph.filled(&format!("{name}/rest"), &[], rest);
    let filled = graph.op("Expand", &format!("{name}/filled"), &[&rest, &shape], &[]);
    let inputs = [&filled, &indices, &values];
    graph.op("ScatterElements", name, &inputs, &[("axis", Attr::Int(-1))])
}
