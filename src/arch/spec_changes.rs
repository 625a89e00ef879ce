//! Changes to a whole decoder that several families share.

use super::heads::Heads;
use super::{
    Activation, Arrangement, DecoderSpec, Embedding, Glu, Linear, Mlp, Norm, NormKind, NormOver,
    PerLayerEmbeddings, Streams,
};

impl DecoderSpec {
    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        fn of_norm(norm: &mut Norm) -> (&mut String, &mut String) {
            (&mut norm.path, &mut norm.source)
        }
        fn of_table(table: &mut Embedding) -> (&mut String, &mut String) {
            (&mut table.path, &mut table.source)
        }
        let mut all = vec![of_table(&mut self.embed_tokens)];
        all.extend(
            self.learned_positions
                .iter_mut()
                .map(|p| of_table(&mut p.table)),
        );
        all.extend(self.embedding_norm.iter_mut().map(of_norm));
        all.extend(self.project_in.iter_mut().map(Linear::names_mut));
        all.extend(self.project_out.iter_mut().map(Linear::names_mut));
        for layer in &mut self.layers {
            all.extend(layer.names_mut());
        }
        for scale in &mut self.layer_scales {
            all.push((&mut scale.path, &mut scale.source));
        }
        let per_layer = self.per_layer.iter_mut();
        all.extend(per_layer.flat_map(PerLayerEmbeddings::names_mut));
        all.extend(self.streams.iter_mut().flat_map(Streams::names_mut));
        all.extend(self.final_norm.iter_mut().map(of_norm));
        all.push(Linear::names_mut(&mut self.lm_head));
        all
    }

    /// Gives every layer norms of queries and keys, with these names in `self_attn`.
    pub(super) fn norm_queries_and_keys(
        &mut self,
        names: [&str; 2],
        over: NormOver,
        kind: NormKind,
    ) {
        for layer in &mut self.layers {
            let paths = names.map(|name| format!("{}.self_attn.{name}", layer.path));
            let Some(attention) = &mut layer.attention else {
                continue;
            };
            let heads = Heads {
                queries: attention.num_attention_heads,
                keys: attention.num_key_value_heads,
                width: attention.head_dim,
            };
            let epsilon = layer.arrangement.first_norm().epsilon;
            attention.query_key_norms = Some(heads.norms(paths, over, kind, epsilon));
        }
    }

    /// Sets every layer's arrangement to what `make` returns. `make` receives a function that
    /// creates a norm with a given name in the layer.
    pub(super) fn rearrange(&mut self, make: impl Fn(&dyn Fn(&str) -> Norm) -> Arrangement) {
        for layer in &mut self.layers {
            let model = layer.arrangement.first_norm().clone();
            let norm = |name: &str| {
                let path = format!("{}.{name}", layer.path);
                Norm::new(path, model.size, model.kind, model.epsilon)
            };
            layer.arrangement = make(&norm);
        }
    }

    /// Turns every gated MLP into a plain one, with these names in the layer. Sizes and biases are
    /// those of the gate and the down projection.
    pub(super) fn make_mlps_plain(&mut self, names: [&str; 2]) {
        for layer in &mut self.layers {
            let Mlp::Gated {
                gate_proj: mut fc1,
                down_proj: mut fc2,
                activation,
                ..
            } = layer.mlp.clone()
            else {
                continue;
            };
            fc1.rename(&layer.path, names[0]);
            fc2.rename(&layer.path, names[1]);
            layer.mlp = Mlp::Plain {
                fc1,
                fc2,
                activation,
            };
        }
    }

    /// Joins gate and up of every gated MLP in one projection, `mlp.gate_up_proj`.
    pub(super) fn fuse_gate_and_up(&mut self) {
        for layer in &mut self.layers {
            let Mlp::Gated {
                mut gate_proj,
                down_proj,
                activation,
                ..
            } = layer.mlp.clone()
            else {
                continue;
            };
            gate_proj.rename(&layer.path, "mlp.gate_up_proj");
            gate_proj.out_features *= 2;
            layer.mlp = Mlp::GatedFused {
                gate_up_proj: gate_proj,
                down_proj,
                activation,
            };
        }
    }

    /// Sets the activation of every MLP.
    pub(super) fn set_activation(&mut self, other: Activation) {
        for layer in &mut self.layers {
            match &mut layer.mlp {
                Mlp::Gated { activation, .. }
                | Mlp::GatedFused { activation, .. }
                | Mlp::Plain { activation, .. } => *activation = other,
                Mlp::Experts(mixture) => mixture.glu = Glu::Plain(other),
                Mlp::Absent => {}
            }
        }
    }
}

impl Linear {
    /// Renames the module and its tensors to `name` in `parent`.
    pub(super) fn rename(&mut self, parent: &str, name: &str) {
        self.path = format!("{parent}.{name}");
        self.source.clone_from(&self.path);
    }
}

impl Norm {
    /// Renames the module and its tensors to `name` in `parent`.
    pub(super) fn rename(&mut self, parent: &str, name: &str) {
        self.path = format!("{parent}.{name}");
        self.source.clone_from(&self.path);
    }
}
