//! Multitask prompt tuning: one prompt for all tasks, multiplied by a low-rank matrix of each.
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[num_virtual_tokens, embedding_dim]` |
//! | `prefix_task_cols` | `[num_tasks, num_virtual_tokens, num_ranks]` |
//! | `prefix_task_rows` | `[num_tasks, num_ranks, embedding_dim]` |
//!
//! The rows of task `t` are `prompt_embeddings ∘ (cols[t] rows[t])`; inference is then prompt
//! tuning's. PEFT takes the task with every call; here it's chosen when the adapter is prepared,
//! and the product is computed then. A fresh adapter has prompt tuning's rows, and `N(0, 0.02²)` in
//! both factors.
//!
//! Sources: Wang et al., arXiv:2303.02861; PEFT, `tuners/multitask_prompt_tuning/`.

use ndarray::{Array2, Axis};

use super::prompt_tuning::{fresh, token_dim, virtual_tokens};
use super::{Class, Method};
use crate::adapter::task::Task;
use crate::adapter::toolbox::options::rank;
use crate::adapter::toolbox::tuner::Loading;
use crate::adapter::{AdapterError, Effects, Init, PromptCounts};
use crate::graph::PROMPT_INPUT;
use crate::json::JsonObject;

/// The entry in [`METHODS`](super::METHODS).
pub const METHOD: Method = Method {
    peft_type: "MULTITASK_PROMPT_TUNING",
    class: Class::Unmergeable,
    variants: "one fixed task (`--task-id`)",
    refused: "initial values of another adapter, for fresh adapters",
    load,
};

/// Reads the adapter.
fn load(loading: Loading) -> Result<Effects, AdapterError> {
    let Loading {
        config,
        base,
        tensors,
        task_id,
    } = loading;
    let count = config.size_up_to("num_virtual_tokens", base.spec.max_position_embeddings)?;
    let width = token_dim(config, base)?;
    let task = Task::choose(config, "num_tasks", task_id)?;
    let ranks = rank(config, "num_ranks", 1)?;
    if tensors.is_fresh() {
        refuse_sources(config)?;
    }
    let shape = vec![count, width];
    let values = tensors.take_or(PROMPT_INPUT, &shape, |rng| fresh(config, base, count, rng))?;
    let factor = Init::Normal(0.02);
    let columns = tensors.cube("prefix_task_cols", [task.count, count, ranks], factor)?;
    let rows = tensors.cube("prefix_task_rows", [task.count, ranks, width], factor)?;
    let of_task = |factors: &ndarray::Array3<f32>| factors.index_axis(Axis(0), task.id).to_owned();
    let shared = Array2::from_shape_vec((count, width), values)
        .expect("`take_or` gives as many values as asked for");
    let elements = shared.len() + columns.len() + rows.len();
    let prompt = shared * of_task(&columns).dot(&of_task(&rows));
    let mut effects = virtual_tokens(
        shape,
        prompt.into_iter().collect(),
        PromptCounts::plain(elements),
    );
    effects.task = Some(task);
    Ok(effects)
}

/// Refuses initial values from another adapter, which aren't in the configuration.
fn refuse_sources(config: &JsonObject) -> Result<(), AdapterError> {
    let key = "prompt_tuning_init";
    match config.optional_text(key)? {
        Some("AVERAGE_SOURCE_TASKS" | "EXACT_SOURCE_TASK" | "ONLY_SOURCE_SHARED") => {
            let reason = "a fresh adapter can't be initialised from `prompt_tuning_init_state_dict_path`; use one of RANDOM, \
                          SAMPLE_VOCAB, TEXT is";
            Err(config.refused(key, reason).into())
        }
        _ => Ok(()),
    }
}
