//! A portable graph with adapters beside it: its inputs have defaults with which it computes what
//! the base computes, and each adapter is a file that a caller activates.

use std::fs;
use std::path::{Path, PathBuf};

use super::check::{self, Expected};
use super::layout::AdapterLayout;
use super::{Making, PortableError, Surroundings, defaults};
use crate::adapter::AdapterSet;
use crate::graph::ACTIVE_FROM_INPUT;
use crate::graph::proto::Model;
use crate::model::BaseModel;
use crate::parity::Parity;
use crate::prepared::{ADAPTER, Manifest, Portable, PortableAdapter, PreparedVariant, Variant};
use crate::weights::{
    AdapterTensor, ONNX_ADAPTER, OnnxAdapterFile, SafetensorsFile, write_onnx_adapter,
};

/// Versions in the adapters' files. ONNX Runtime compares them with nothing.
const VERSIONS: [u32; 2] = [1, 1];

/// One of the adapters.
#[derive(Debug)]
pub struct Member {
    /// Its name, which is that of its file.
    pub name: String,
    /// Its prepared unmerged variant.
    pub variant: PreparedVariant,
    /// What the check of its variants found, if there was one.
    pub parity: Option<Parity>,
    /// What the unmerged variant generates; `None` if the written graph shall not be run.
    pub expected: Option<Expected>,
}

/// What a portable folder with adapters is made from.
#[derive(Debug)]
pub struct AdapterSource<'a> {
    /// The base as unmerged adapters see it.
    pub seen: &'a BaseModel,
    /// The adapters of the graph.
    pub set: &'a AdapterSet<'a>,
    /// Their shared graph.
    pub model: Model,
    /// The folder that locations of its external data are relative to.
    pub folder: PathBuf,
    /// The adapters, in the order of `set`.
    pub members: &'a [Member],
    /// How their tensors are named and laid out.
    pub layout: AdapterLayout,
    /// What the base generates; `None` if the written graph shall not be run.
    pub base_expected: Option<&'a Expected>,
}

/// Writes a portable folder with adapters. An earlier folder is replaced once the new one is
/// complete. Returns its manifest.
///
/// # Errors
/// If a file can't be read or written, or the written graph doesn't give what the base gives with
/// no adapter, or what an adapter's variant gives with that.
pub fn write_adapters(
    surroundings: Surroundings,
    source: AdapterSource,
    folder: &Path,
) -> Result<Manifest, PortableError> {
    let AdapterSource {
        seen,
        set,
        model,
        members,
        layout,
        base_expected,
        ..
    } = source;
    let making = Making::begin(surroundings, folder, &source.folder)?;
    let (mut model, mut data) = making.bring(model, &source.folder)?;
    let mut inputs: Vec<String> = Vec::new();
    for adapter in set.adapters() {
        inputs.extend(adapter.inputs().into_iter().map(|input| input.name));
    }
    inputs.sort();
    inputs.dedup();
    layout.apply(&mut model, &inputs)?;
    let mut without_default = Vec::new();
    set.for_each_neutral(seen, &mut |mut input| {
        let name = input.name.clone();
        layout.input(&mut input);
        if !defaults::set(&mut model, input, making.made(), &mut data)? {
            without_default.push(name);
        }
        Ok::<(), PortableError>(())
    })?;
    if set
        .adapters()
        .iter()
        .any(|adapter| adapter.invocation().is_some())
    {
        // onnxruntime-genai sets no input that has a default, so this one has none.
        without_default.push(ACTIVE_FROM_INPUT.to_owned());
    }

    let mut manifest = members[0].variant.manifest.clone();
    manifest.adapter = None;
    manifest.variant = Variant::Unmerged;
    let tokens = making.put_all(model, &mut manifest)?;
    let mut portable = Portable::default();
    for member in members {
        let adapter = put_adapter(&making, member, layout)?;
        portable.adapters.push(adapter);
    }
    check(
        &making,
        &manifest,
        members,
        base_expected,
        tokens.pad,
        &mut portable,
        &without_default,
    )?;
    making.finish(manifest, &tokens, portable)
}

/// Writes the file of one adapter.
fn put_adapter(
    making: &Making,
    member: &Member,
    layout: AdapterLayout,
) -> Result<PortableAdapter, PortableError> {
    let name = &member.name;
    let below = Path::new(Portable::ADAPTERS).join(format!("{name}.{ONNX_ADAPTER}"));
    let path = making.made().join(&below);
    let folder = making.made().join(Portable::ADAPTERS);
    fs::create_dir_all(&folder).map_err(|source| PortableError::Write {
        path: folder.clone(),
        source,
    })?;
    let file = SafetensorsFile::open(&member.variant.folder.join(ADAPTER))?;
    let names = file.names();
    let mut tensors = Vec::with_capacity(names.len());
    for name in &names {
        if let Some(view) = file.get(name) {
            tensors.push(layout.tensor(AdapterTensor {
                name: name.clone(),
                dtype: view.dtype()?,
                shape: view.shape.clone(),
                bytes: view.bytes.into(),
            }));
        }
    }
    write_onnx_adapter(&path, &tensors, VERSIONS)?;
    let summary = member.variant.manifest.adapter.clone();
    let mut adapter = summary.expect("an unmerged variant has an adapter");
    adapter.inputs = tensors.into_iter().map(|tensor| tensor.name).collect();
    adapter.neutral = adapter
        .neutral
        .into_iter()
        .map(|(name, value)| (layout.name(&name), value))
        .collect();
    adapter.folder = crate::prepared::HERE.into();
    adapter.file = Some(below);
    Ok(PortableAdapter {
        name: name.clone(),
        adapter,
        sample: None,
    })
}

/// Runs the written graph without an adapter and with each.
fn check(
    making: &Making,
    manifest: &Manifest,
    members: &[Member],
    base_expected: Option<&Expected>,
    pad: u32,
    portable: &mut Portable,
    without_default: &[String],
) -> Result<(), PortableError> {
    let mut session = None;
    if let (Some(expected), []) = (base_expected, without_default) {
        let session = match &mut session {
            Some(session) => session,
            none => none.insert(making.open(manifest)?),
        };
        let ran = check::run(session, manifest, expected, pad)?;
        portable
            .checks
            .extend(ran.sentences("the base, with no adapter active"));
        portable.sample = Some(ran.sample);
    }
    let any_ran = members.iter().any(|member| member.expected.is_some());
    if base_expected.is_none() && any_ran {
        portable.checks.push(
            "With no adapter active the graph isn't the base: the adapter gives the model other layers.".to_owned(),
        );
    }
    if let [first, ..] = without_default {
        portable.checks.push(format!(
            "{} inputs of the graph have no default, such as `{first}`: without a value ONNX Runtime reports that the input \
             is missing.",
            without_default.len()
        ));
    }
    for (member, own) in members.iter().zip(&mut portable.adapters) {
        let name = &member.name;
        if let Some(parity) = &member.parity {
            let found = check::of_parity(parity, Variant::Unmerged);
            let named = found
                .into_iter()
                .map(|sentence| format!("`{name}`: {sentence}"));
            portable.checks.extend(named);
        }
        if let (Some(expected), Some(file)) = (&member.expected, &own.adapter.file) {
            let session = match &mut session {
                Some(session) => session,
                none => none.insert(making.open(manifest)?),
            };
            let file = OnnxAdapterFile::open(&making.made().join(file))?;
            session.activate(&file, &own.adapter)?;
            let ran = check::run(session, manifest, expected, pad)?;
            session.deactivate();
            let of = format!("its unmerged variant, with `{name}` active");
            portable.checks.extend(ran.sentences(&of));
            own.sample = Some(ran.sample);
        }
    }
    Ok(())
}
