//! `peft-bench verify` of a portable folder: is it intact, and does it compute what it did when it
//! was written?

use anyhow::{Result, bail};
use indicatif::HumanBytes;

use super::output::line;
use crate::engine::{Provider, WeightsMode};
use crate::portable::{PlainSession, damage, repeat};
use crate::prepared::{Portable, PreparedVariant, Sample};
use crate::study::Setup;
use crate::weights::OnnxAdapterFile;

/// Compares the files of the portable folder `variant` with their hashes, and generates its samples
/// again.
pub fn verify_portable(
    setup: &Setup,
    variant: &PreparedVariant,
    portable: &Portable,
) -> Result<()> {
    let folder = variant.folder.display();
    let damaged = damage(&variant.folder, &portable.files)?;
    if !damaged.is_empty() {
        bail!(
            "`{folder}` is damaged: {}; copy it again",
            damaged.join("; ")
        );
    }
    let bytes: u64 = portable.files.values().map(|file| file.bytes).sum();
    line(&format!(
        "files      {} files, {}: sizes and hashes are the manifest's",
        portable.files.len(),
        HumanBytes(bytes)
    ))?;
    let samples = portable.adapters.iter().map(|adapter| &adapter.sample);
    if samples.chain([&portable.sample]).all(Option::is_none) {
        return line(
            "graph      not run: the folder was written with `--no-check`, so there is nothing to compare with",
        );
    }
    let runtime = setup.onnx_runtime(Provider::Cpu)?;
    let options = setup.engine_options(Provider::Cpu, 1, WeightsMode::InPlace);
    let manifest = &variant.manifest;
    let mut session = PlainSession::open(&runtime, &variant.folder, manifest, options.threads)?;
    if let Some(sample) = &portable.sample {
        compare(&mut session, sample, "graph", &folder.to_string())?;
    }
    for own in &portable.adapters {
        if let (Some(sample), Some(file)) = (&own.sample, &own.adapter.file) {
            let file = OnnxAdapterFile::open(&variant.folder.join(file))?;
            session.activate(&file, &own.adapter)?;
            let file = file.path().display().to_string();
            compare(&mut session, sample, &own.name, &file)?;
        }
    }
    Ok(())
}

fn compare(session: &mut PlainSession, sample: &Sample, name: &str, path: &str) -> Result<()> {
    let (difference, same) = repeat(session, sample)?;
    line(&format!(
        "{name:<10} logits differ by {difference:.2e} of the largest logit from those when it was written ({:.0e} \
         allowed), {same} of {} tokens are the same",
        sample.tolerance,
        sample.token_ids.len()
    ))?;
    if difference > sample.tolerance {
        bail!("`{path}` computes something else than when it was written");
    }
    Ok(())
}
