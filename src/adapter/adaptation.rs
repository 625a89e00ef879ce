//! The trait [`Adaptation`], by which the graph asks what to add, for any adapter.

use super::Adapter;
use super::form::Form;
use crate::graph::{
    Adaptation, AttentionPlace, AttentionSite, BeforeLayers, Carried, EmbeddingSite, ExpertSite,
    GraphBuilder, LinearSite, Value,
};

impl Adaptation for Adapter {
    fn has_virtual_tokens(&self) -> bool {
        self.has_virtual_tokens()
    }

    fn takes_whole_calls(&self) -> bool {
        self.takes_whole_calls()
    }

    fn embedding(&self, graph: &mut GraphBuilder, site: &EmbeddingSite) -> Option<Value> {
        let form = self.unmerged_form(site.path)?;
        Some(form.embedding(graph, &self.naming(site.path), site))
    }

    fn linear(&self, graph: &mut GraphBuilder, site: &LinearSite) -> Option<Value> {
        let form = self.unmerged_form(site.path)?;
        Some(form.linear(graph, &self.naming(site.path), site))
    }

    fn expert(&self, graph: &mut GraphBuilder, site: ExpertSite, product: &Value) -> Option<Value> {
        let form = self.unmerged_form(site.path)?;
        Some(form.expert(graph, &self.naming(site.path), site, product))
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
