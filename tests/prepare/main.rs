//! What `prepare` leaves in a folder: when it's made again, who can use it, and for what.

#[path = "../common/mod.rs"]
mod common;

mod checkpoints;
mod experts;
mod folders;
mod own_base;
mod tasks;
mod up_to_date;
mod wrappers;
