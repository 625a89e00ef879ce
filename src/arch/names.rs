//! Module and tensor names, which begin differently depending on the program that wrote them.

/// Names that may enclose a decoder, in the order of a path: PEFT's model, a model with its head, a
/// wrapper's text tower. Which of them a name begins with depends on what was saved.
const AROUND: [&str; 6] = [
    "base_model",
    "model",
    "language_model",
    "text_model",
    "transformer",
    "gpt_neox",
];

/// `name` without the enclosing modules: `layers.0.mlp.up_proj.weight`, `lm_head.weight`.
pub fn bare(name: &str) -> &str {
    let mut rest = name;
    while let Some((first, after)) = rest.split_once('.')
        && AROUND.contains(&first)
    {
        rest = after;
    }
    rest
}

/// The last part of a module's path: `up_proj`.
pub fn last_name(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enclosing_modules_do_not_change_the_bare_name() {
        for name in [
            "layers.0.norm",
            "model.layers.0.norm",
            "model.language_model.layers.0.norm",
            "language_model.model.layers.0.norm",
            "model.language_model.model.layers.0.norm",
            "base_model.model.model.text_model.layers.0.norm",
        ] {
            assert_eq!(bare(name), "layers.0.norm");
        }
        assert_eq!(bare("language_model.lm_head"), "lm_head");
        let vision = "vision_tower.vision_model.layers.0";
        assert_eq!(bare(vision), vision);
        assert_eq!(bare("model"), "model");
    }
}
