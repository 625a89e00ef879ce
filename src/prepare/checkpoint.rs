//! placeholder
pub fn write_checkpoint(){}
