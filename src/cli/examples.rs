//! Examples at the end of each command's `--help`.

pub const PREPARE: &str = "\
Examples:
  peft-bench prepare lora/lora_r8
  peft-bench prepare path/to/adapter --format hf         # a checkpoint for transformers
  peft-bench prepare path/to/adapter --portable folder   # for onnxruntime-genai, Optimum, anywhere
  peft-bench prepare --portable folder --adapters path/to/one path/to/other";

pub const MEASURE: &str = "\
Examples:
  peft-bench measure lora/lora_r8
  peft-bench measure lora/lora_r8 ia3/default vera/r256 --target-precision 2%
  peft-bench measure path/to/adapter --model org/name --quantize 4bit
  peft-bench measure lora/lora_r8 --restarts 5 --quiet-gate 30s       # confirm it: processes anew, a quiet machine";

pub const BASE: &str = "\
Examples:
  peft-bench base --model synthetic/llama-135m
  peft-bench base --model org/name --dtype float16 --force";

pub const REPORT: &str = "\
Examples:
  peft-bench report
  peft-bench report --filter 'method == \"LORA\" and overhead < 5' --sort overhead:desc
  peft-bench report results --output report.html         # or .csv, .md, .jsonl
  peft-bench report --columns help";

pub const COMPARE: &str = "\
Exit codes:
  0  nothing is worse
  1  something is worse
  2  usage
  3  something can't be told, can't be compared, or can't be read

Where it can't be told, more runs help (`num_inference_runs`), and several starts (`measure --restarts 5`).

Examples:
  peft-bench compare old.json new.json
  peft-bench compare baseline results --margin 5%
  peft-bench compare baseline results --format markdown > comment.md";

pub const VERIFY: &str = "\
Exit codes with --merged:
  0  the checkpoint is base and adapter, merged right
  1  a tensor is wrong, or the predictions are
  2  usage
  3  it can't be told: something can't be read, merged or run

Examples:
  peft-bench verify path/to/adapter
  peft-bench verify path/to/adapter --prompt 'What is the capital of Italy?'
  peft-bench verify path/to/adapter --merged path/to/checkpoint
  peft-bench verify lora/lora_r8 --prompt-ids 1,2,3 --max-new-tokens 32";

pub const CONVERT: &str = "\
Examples:
  peft-bench convert path/to/dora --to lora --rank 16
  peft-bench convert oft/default --to lora --rank 0.95   # 95 % of the change's energy
  peft-bench convert path/to/loha --to lora --rank 8 --into path/to/result --json";

pub const GENERATE: &str = "\
Examples:
  peft-bench generate path/to/adapter --prompt 'The capital of France is'
  peft-bench generate path/to/adapter --variant merged --prompt Hello --json
  peft-bench generate org/name --variant base --prompt-ids 1,2,3";

pub const INIT: &str = "\
Examples:
  peft-bench init lora --rank 16 --targets q_proj,v_proj
  peft-bench init lora --rank 8 --set use_dora=true --name r8_dora
  peft-bench init prefix-tuning --tokens 50 --param max_new_tokens=100";

pub const CHECK: &str = "\
Examples:
  peft-bench check                                       # all of experiments/
  peft-bench check path/to/adapter --model org/name";

pub const METHODS: &str = "\
Examples:
  peft-bench methods
  peft-bench methods --json";

pub const MODELS: &str = "\
Examples:
  peft-bench models
  peft-bench models --json";

pub const RUNTIME: &str = "\
Examples:
  peft-bench runtime
  peft-bench runtime install --cuda
  peft-bench runtime --json";

pub const COMPLETIONS: &str = "\
Examples:
  peft-bench completions bash > ~/.local/share/bash-completion/completions/peft-bench
  peft-bench completions zsh > ~/.zfunc/_peft-bench
  peft-bench completions fish > ~/.config/fish/completions/peft-bench.fish";

pub const MAN: &str = "\
Examples:
  peft-bench man > peft-bench.1
  peft-bench man ~/.local/share/man/man1";

pub const SWEEP: &str = "\
Examples:
  peft-bench sweep plan --experiments 'lora/*' --models synthetic/llama-57m --dtypes float32,bfloat16
  peft-bench sweep run
  peft-bench sweep submit --launcher slurm -- --partition=gpu
  peft-bench sweep report";

pub const SWEEP_PLAN: &str = "\
Examples:
  peft-bench sweep plan sweep.toml --dry-run
  peft-bench sweep plan --experiments 'lora/*',ia3/default --batch-sizes 1,8 --to sweeps/first
  peft-bench sweep plan sweep.toml --threads 8 -- --restarts 3 --quiet-gate 30s";

pub const SWEEP_RUN: &str = "\
Exit codes:
  0    all results are there
  1    a job failed
  2    usage
  3    jobs are being measured elsewhere, or something was busy: run it again
  130  interrupted, or cancelled: run it again

Examples:
  peft-bench sweep run
  peft-bench sweep run sweeps/first --cores 0-7,8-15 --retries 1 --timeout 30m --keep-going
  peft-bench sweep run sweeps/first --devices 0,1,2,3
  peft-bench sweep run sweeps/first --shard 0/4";

pub const SWEEP_SUBMIT: &str = "\
Examples:
  peft-bench sweep submit --launcher slurm --print
  peft-bench sweep submit --launcher slurm --at-once 8 --cpus 16 -- --partition=cpu --time=60
  peft-bench sweep submit --launcher hq --cpus 16";

pub const SWEEP_MANIFEST: &str = "\
Examples:
  peft-bench sweep manifest --kubernetes --image registry/peft-bench:1 --claim shared --mount /shared > job.yaml";
