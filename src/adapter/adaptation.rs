//! The trait [`Adaptation`], by which the graph asks what to add, for any adapter.

use super::form::Form;
use super::{Adapter, Prompt};
use crate::graph::{
    AbsorbedChange, Adaptation, AttentionPlace, AttentionSite, BeforeLayers, Carried,
    EmbeddingSite, ExpertSite, GraphBuilder, LinearSite, Value,
};

impl Adaptation for Adapter {
    fn has_virtual_tokens(&self) -> bool {
        matches!(self.prompt(), Some(Prompt::Virtual(_)))
    }

    fn takes_whole_calls(&self) -> bool {
        self.effects.whole_calls
    }

    fn runs_whole_sequences(&self) -> bool {
        let network = self.side_network();
        network.is_some_and(|network| network.repeats_decoder())
    }

    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Option<Value> {
        let (form, naming) = (self.unmerged_form(site.path)?, self.naming(site.path));
        Some(match form {
            Form::Embedding(form) => form.nodes(graph, &naming, site),
            Form::Tokens(form) => form.embedding_nodes(graph, &naming, site),
            Form::Linear(_) | Form::Native(_) | Form::Attention(_) => {
                unreachable!("`{}` is an embedding", site.path)
            }
        })
    }

    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Option<Value> {
        let (form, naming) = (self.unmerged_form(site.path)?, self.naming(site.path));
        Some(match form {
            Form::Linear(form) => form.nodes(graph, &naming, site),
            Form::Tokens(form) => form.head_nodes(graph, &naming, site),
            Form::Native(form) => form.nodes(graph, &naming, site),
            Form::Embedding(_) | Form::Attention(_) => {
                unreachable!("`{}` is a linear layer", site.path)
            }
        })
    }

    fn absorbed(&self, graph: &mut GraphBuilder, path: &str) -> Option<AbsorbedChange> {
        let Form::Linear(form) = self.unmerged_form(path)? else {
            unreachable!("other forms of an absorbed layer are refused")
        };
        Some(form.absorbed(graph, &self.naming(path)))
    }

    fn expert(&self, graph: &mut GraphBuilder, site: ExpertSite, product: &Value) -> Option<Value> {
        let Form::Linear(form) = self.unmerged_form(site.path)? else {
            unreachable!("`{}` is a projection of an expert", site.path)
        };
        Some(form.expert_nodes(graph, &self.naming(site.path), site, product))
    }

    fn adapts_attention(&self, path: &str) -> bool {
        matches!(self.unmerged_form(path), Some(Form::Attention(_)))
    }

    fn attention(
        &self,
        graph: &mut GraphBuilder,
        site: &AttentionSite,
    ) -> Option<(Value, AttentionPlace)> {
        let Form::Attention(form) = self.unmerged_form(site.path)? else {
            return None;
        };
        let added = form.nodes(graph, &self.naming(site.path), site);
        Some((added, form.place))
    }

    fn before_layers(&self, decoder: &mut BeforeLayers) -> Carried {
        match (self.side_network(), self.invocation()) {
            (Some(network), _) => network.before_layers(decoder),
            (None, Some(_)) => Carried {
                token_gate: Some(decoder.active_mask()),
                state: None,
            },
            (None, None) => Carried::default(),
        }
    }

    fn enter_layer(
        &self,
        graph: &mut GraphBuilder,
        index: usize,
        hidden: &Value,
        state: &mut Value,
    ) -> Option<Value> {
        let network = self.side_network()?;
        network.enter_layer(graph, index, hidden, state)
    }
}
