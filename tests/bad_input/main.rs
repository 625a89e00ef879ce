//! Invalid files and options: the program prints one line on stderr that names the file and what
//! was expected, ends with exit code 1 or 2, and leaves what was prepared before unchanged.

#![expect(clippy::unwrap_used, reason = "a test may unwrap")]

#[path = "../common/mod.rs"]
mod common;

mod adapter_config;
mod adapter_file;
mod adapter_folder;
mod base_config;
mod base_file;
mod command_line;
mod damaged_files;
mod non_finite;
mod prompt_learning;
mod routers;
mod safetensors_bytes;
mod special_files;
mod spoilt;
mod target_parameters;
