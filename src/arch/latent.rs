//! Latent attention, as data: keys and values of all heads are projections of one short vector, and
//! so may queries be.
//!
//! ```text
//! c | r = compress(x)       c: `latent` numbers, r: `rotated` numbers, one key for all heads
//! k | v = expand(norm(c))   for each head: `plain` numbers of its key, `value` numbers
//! key   = k | rotate(r)     query = q | rotate(q'), from `query(x)`
//! ```
//!
//! Source: DeepSeek-AI, "DeepSeek-V2", arXiv:2405.04434; `modeling_deepseek_v3.py`, Hugging Face
//! Transformers.

use super::rope::{self, RopeDefaults};
use super::{
    Attention, DecoderSpec, LatentCache, Linear, Norm, NormKind, Pairs, Position, Projections, read,
};
use crate::json::{ConfigError, JsonObject};

/// The widest part of a head that's accepted.
const WIDEST: usize = 1 << 16;

/// The epsilon of both norms, whatever the configuration says about others.
const EPSILON: f64 = 1e-6;

/// The projections of latent attention.
#[derive(Debug, Clone)]
pub struct Latent {
    /// Queries: `[num_attention_heads * (plain + rotated), …]`.
    pub query: LatentQuery,
    /// `[latent + rotated, hidden_size]`
    pub compress: Linear,
    /// The norm of the compressed vector.
    pub norm: Norm,
    /// `[num_attention_heads * (plain + value), latent]`
    pub expand: Linear,
    /// Width of the part of a head that isn't rotated.
    pub plain: usize,
    /// Width of the part of a head that's rotated.
    pub rotated: usize,
    /// Width of a head's value.
    pub value: usize,
    /// What's cached.
    pub cache: LatentCache,
}

/// The projections of queries.
#[derive(Debug, Clone)]
pub enum LatentQuery {
    /// One projection.
    Direct(Linear),
    /// `up(norm(down(x)))`
    Compressed {
        /// `[q_lora_rank, hidden_size]`
        down: Linear,
        /// The norm between the two.
        norm: Norm,
        /// `[…, q_lora_rank]`
        up: Linear,
    },
}

/// The families that have latent attention.
pub const LATENT_FAMILIES: [&str; 3] = ["deepseek_v2", "deepseek_v3", "glm4_moe_lite"];

/// A family's defaults.
#[derive(Debug, Clone, Copy)]
pub struct LatentDefaults {
    /// Of `q_lora_rank`.
    pub query_rank: usize,
    /// Of `qk_nope_head_dim`, `qk_rope_head_dim` and `v_head_dim`.
    pub widths: [usize; 3],
    /// Whether `rope_interleave` is read; otherwise rotary pairs are neighbours.
    pub reads_pairs: bool,
}

impl Latent {
    /// The width of a query's or a key's head.
    pub fn key_width(&self) -> usize {
        self.plain + self.rotated
    }

    /// Whether the compressed vector is cached, so that [`expand`](Self::expand) is applied to
    /// queries and outputs instead.
    pub fn is_absorbed(&self) -> bool {
        self.cache == LatentCache::Compressed
    }

    /// What a compressed cache holds for each token: the compressed vector and the rotated key.
    pub fn compressed_width(&self) -> usize {
        self.norm.size + self.rotated
    }

    /// The projections, in the order in which Transformers declares them.
    pub fn linears(&self) -> Vec<&Linear> {
        let mut all = match &self.query {
            LatentQuery::Direct(query) => vec![query],
            LatentQuery::Compressed { down, up, .. } => vec![down, up],
        };
        all.extend([&self.compress, &self.expand]);
        all
    }

    /// The projections, mutable.
    pub(super) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        let mut all = match &mut self.query {
            LatentQuery::Direct(query) => vec![query],
            LatentQuery::Compressed { down, up, .. } => vec![down, up],
        };
        all.extend([&mut self.compress, &mut self.expand]);
        all
    }

    /// The norms.
    pub fn norms(&self) -> Vec<&Norm> {
        let mut all = match &self.query {
            LatentQuery::Direct(_) => Vec::new(),
            LatentQuery::Compressed { norm, .. } => vec![norm],
        };
        all.push(&self.norm);
        all
    }

    /// Path and source of every module, mutable.
    pub(super) fn names_mut(&mut self) -> Vec<(&mut String, &mut String)> {
        let Self {
            query,
            compress,
            norm,
            expand,
            ..
        } = self;
        let mut linears = vec![compress, expand];
        let mut norms = vec![norm];
        match query {
            LatentQuery::Direct(query) => linears.push(query),
            LatentQuery::Compressed { down, norm, up } => {
                linears.extend([down, up]);
                norms.push(norm);
            }
        }
        let linears = linears.into_iter().map(Linear::names_mut);
        let norms = norms.into_iter();
        linears
            .chain(norms.map(|norm| (&mut norm.path, &mut norm.source)))
            .collect()
    }
}

/// The width of the rotated part of a head.
pub fn rotated_width(config: &JsonObject, defaults: &LatentDefaults) -> Result<usize, ConfigError> {
    width(config, "qk_rope_head_dim", defaults.widths[1])
}

fn width(config: &JsonObject, key: &str, default: usize) -> Result<usize, ConfigError> {
    let found = config.optional_size_up_to(key, WIDEST)?;
    Ok(found.unwrap_or(default))
}

/// Replaces the attention of every layer.
///
/// # Errors
/// If a key has a wrong type or a value that's not supported.
pub fn replace(
    spec: &mut DecoderSpec,
    config: &JsonObject,
    defaults: &LatentDefaults,
) -> Result<(), ConfigError> {
    let [plain, _, value] = defaults.widths;
    let plain = width(config, "qk_nope_head_dim", plain)?;
    let rotated = rotated_width(config, defaults)?;
    let value = width(config, "v_head_dim", value)?;
    let latent = width(config, "kv_lora_rank", 512)?;
    let query_rank = match config.json().get("q_lora_rank") {
        None => Some(defaults.query_rank),
        Some(_) => config.optional_size_up_to("q_lora_rank", WIDEST)?,
    };
    let pairs = match defaults.reads_pairs && !config.flag("rope_interleave", true)? {
        true => Pairs::Halves,
        false => Pairs::Neighbours,
    };
    let rope_defaults = RopeDefaults {
        pairs,
        ..RopeDefaults::default()
    };
    let rotary = rope::rotary(config, rotated, &rope_defaults)?;
    let bias = config.flag("attention_bias", false)?;
    let scale = ((plain + rotated) as f64).sqrt().recip() * scale_of_scores(config)?;
    let hidden_size = spec.hidden_size;
    for layer in &mut spec.layers {
        let at = |name: &str| format!("{}.self_attn.{name}", layer.path);
        let Some(attention) = &mut layer.attention else {
            continue;
        };
        let heads = attention.num_attention_heads;
        if attention.num_key_value_heads != heads {
            let expected = format!("`num_attention_heads` ({heads})");
            return Err(config.wrong("num_key_value_heads", &expected));
        }
        let linear = |name: &str, out, input, bias| {
            Linear::new(at(name), out, input, bias).with_bias_key("attention_bias")
        };
        let norm = |name: &str, size| Norm::new(at(name), size, NormKind::Rms, EPSILON);
        let queries = heads * (plain + rotated);
        let query = match query_rank {
            None => LatentQuery::Direct(linear("q_proj", queries, hidden_size, false)),
            Some(rank) => LatentQuery::Compressed {
                down: linear("q_a_proj", rank, hidden_size, bias),
                norm: norm("q_a_layernorm", rank),
                up: linear("q_b_proj", queries, rank, false),
            },
        };
        let projections = Latent {
            query,
            compress: linear("kv_a_proj_with_mqa", latent + rotated, hidden_size, bias),
            norm: norm("kv_a_layernorm", latent),
            expand: linear("kv_b_proj", heads * (plain + value), latent, false),
            plain,
            rotated,
            value,
            cache: LatentCache::default(),
        };
        *attention = Attention {
            // Keys and values have the same width in the cache: that of the wider one.
            head_dim: (plain + rotated).max(value),
            projections: Projections::Latent(Box::new(projections)),
            o_proj: linear("o_proj", hidden_size, heads * value, bias),
            position: Position::Rotary(rotary.clone()),
            scale,
            ..attention.clone()
        };
    }
    Ok(())
}

/// The factor of the scores that a rotary scaling with `mscale_all_dim` adds.
fn scale_of_scores(config: &JsonObject) -> Result<f64, ConfigError> {
    let parameters = match config.optional_object("rope_parameters")? {
        Some(parameters) => Some(parameters),
        None => config.optional_object("rope_scaling")?,
    };
    let Some(parameters) = parameters else {
        return Ok(1.0);
    };
    let kind = match parameters.optional_text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.optional_text("type")?,
    };
    let all = parameters.optional_number("mscale_all_dim")?.unwrap_or(0.0);
    if matches!(kind, None | Some("default")) || all == 0.0 {
        return Ok(1.0);
    }
    let expected = "a positive number, as `mscale_all_dim` needs it";
    let factor = match read::positive(&parameters, "factor")? {
        Some(factor) => factor,
        None => return Err(parameters.missing("factor", expected)),
    };
    let scale = match factor > 1.0 {
        true => 0.1 * all * factor.ln() + 1.0,
        false => 1.0,
    };
    Ok(scale * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::FAMILIES;

    #[test]
    fn the_families_with_latent_attention_are_listed() {
        let has_it = FAMILIES
            .iter()
            .filter(|family| family.special.contains("latent attention"));
        let names: Vec<&str> = has_it.map(|family| family.model_type).collect();
        assert_eq!(names, LATENT_FAMILIES);
    }
}
