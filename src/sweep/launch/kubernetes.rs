//! Kubernetes: an Indexed Job with an index for each job of the plan.
//!
//! An index that fails is given up after its retries and doesn't end the others; a pod that was
//! evicted doesn't count. Requests equal limits, so that cores are the pod's own.

use std::fmt::Write;
use std::path::Path;

use thiserror::Error;

use super::{Tasks, shell_line};

/// No two pods on one node.
const APART: &str = "      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels:
                  app.kubernetes.io/name: peft-bench
";

/// What a Job needs besides the tasks.
#[derive(Debug, Clone)]
pub struct Pods<'a> {
    /// The Job's name.
    pub name: &'a str,
    /// The image, which has this program as `peft-bench` in its `PATH`.
    pub image: &'a str,
    /// The claim of a volume that all pods can write to.
    pub claim: &'a str,
    /// Where it's mounted; the sweep and everything that the plan names are below it.
    pub mount: &'a Path,
    /// The memory of a pod, such as `16Gi`.
    pub memory: &'a str,
    /// GPUs of a pod.
    pub gpus: usize,
    /// Retries of an index.
    pub retries: usize,
}

/// A manifest that Kubernetes would refuse.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its message")]
#[non_exhaustive]
pub enum ManifestError {
    #[error(
        "`{0}` can't be a name in Kubernetes: lower-case letters, digits and dashes, at most 63, beginning and ending \
         with a letter or digit"
    )]
    Name(String),
    #[error("`{0}` is no amount of memory for Kubernetes: expected such as `16Gi`")]
    Memory(String),
    #[error("`{}` is not below the volume's folder `{}` (`--mount`), so no pod would see it", path.display(), mount.display())]
    Outside {
        path: std::path::PathBuf,
        mount: std::path::PathBuf,
    },
}

/// The manifest of an Indexed Job, in YAML. Its indexes are all jobs of the plan; those that are
/// done end at once.
///
/// # Errors
/// If Kubernetes would refuse it, or pods wouldn't see the sweep.
pub fn manifest(tasks: &Tasks, pods: &Pods) -> Result<String, ManifestError> {
    for name in [pods.name, pods.claim] {
        if !is_label(name) {
            return Err(ManifestError::Name(name.to_owned()));
        }
    }
    if !is_amount(pods.memory) {
        return Err(ManifestError::Memory(pods.memory.to_owned()));
    }
    for path in [tasks.sweep, &tasks.plan.common.folder] {
        if !path.starts_with(pods.mount) {
            return Err(ManifestError::Outside {
                path: path.to_owned(),
                mount: pods.mount.to_owned(),
            });
        }
    }
    let jobs = tasks.plan.jobs.len();
    let command = tasks.command(Path::new("peft-bench"), ["--index", "auto"]);
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let arguments = command
        .iter()
        .map(|word| format!("            - {}\n", text(word)));
    let arguments: String = arguments.collect();
    let mut limits = format!(
        "              cpu: {}\n              memory: {}\n",
        text(&tasks.cpus.to_string()),
        pods.memory
    );
    if pods.gpus > 0 {
        let _ = writeln!(limits, "              nvidia.com/gpu: {}", pods.gpus);
    }
    let Pods {
        name,
        image,
        claim,
        mount,
        retries,
        ..
    } = pods;
    let mount = text(&mount.display().to_string());
    Ok(format!(
        "# {comment}
apiVersion: batch/v1
kind: Job
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: peft-bench
    peft-bench/plan: \"{hash}\"
spec:
  completionMode: Indexed
  completions: {jobs}
  parallelism: {parallelism}
  backoffLimitPerIndex: {retries}
  maxFailedIndexes: {jobs}
  podFailurePolicy:
    rules:
      - action: FailIndex
        onExitCodes:
          containerName: peft-bench
          operator: In
          values: [2]
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
            status: \"True\"
  template:
    metadata:
      labels:
        app.kubernetes.io/name: peft-bench
        peft-bench/plan: \"{hash}\"
    spec:
      restartPolicy: Never
{affinity}      containers:
        - name: peft-bench
          image: {image}
          workingDir: {folder}
          command:
{arguments}          resources:
            requests:
{limits}            limits:
{limits}          volumeMounts:
            - name: sweep
              mountPath: {mount}
      volumes:
        - name: sweep
          persistentVolumeClaim:
            claimName: {claim}
",
        // Pods with whole GPUs may share a node; those on cores slow each other.
        affinity = if pods.gpus > 0 { "" } else { APART },
        comment = shell_line(&["kubectl", "apply", "-f", "job.yaml"].map(str::to_owned)),
        hash = tasks.plan.hash,
        parallelism = tasks.at_once.unwrap_or(jobs).min(jobs).max(1),
        image = text(image),
        folder = text(&tasks.plan.common.folder.display().to_string()),
    ))
}

/// A label of DNS, which names are.
fn is_label(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().next_back()];
    name.len() <= 63
        && ends.iter().all(|end| end.is_some_and(is_plain))
        && name.bytes().all(|byte| is_plain(byte) || byte == b'-')
}

fn is_amount(text: &str) -> bool {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = &text[digits.len()..];
    let known = ["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && known.contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_amounts_are_those_of_kubernetes() {
        assert!(is_label("sweep-1") && is_label("a"));
        assert!(!is_label("Sweep") && !is_label("-a") && !is_label("a_b") && !is_label(""));
        assert!(is_amount("16Gi") && is_amount("1024") && !is_amount("16GB") && !is_amount("Gi"));
    }
}
