//! Opening a base model to look at its architecture: nothing is downloaded, and no weights are
//! made.

use super::hub::{self, HubSettings};
use super::synthetic::{SyntheticError, make_hollow};
use super::{BaseModel, ModelError, ModelId};
use crate::files::temporary_folder;

impl BaseModel {
    /// Opens the model `id` if that takes no download; `None` if it would. A synthetic model has
    /// the sizes and names of its tensors, and no values.
    ///
    /// # Errors
    /// If its architecture isn't supported, or its files are malformed.
    pub fn at_hand(id: &ModelId) -> Result<Option<Self>, ModelError> {
        let model = match id {
            ModelId::Local(folder) => Self::open_folder(folder)?,
            ModelId::Synthetic(shape) => {
                // The files stay mapped after the folder is gone.
                let folder = temporary_folder::scratch().map_err(|source| SyntheticError::Io {
                    action: "create a folder in",
                    path: std::env::temp_dir(),
                    source,
                })?;
                make_hollow(shape, folder.path())?;
                Self::open_folder(folder.path())?
            }
            ModelId::Hub(hub_id) => {
                let mut settings = HubSettings::from_env();
                settings.offline = true;
                match hub::fetch(hub_id, &settings, &|_| {}) {
                    Ok(folder) => Self::open_folder(&folder)?,
                    Err(_) => return Ok(None),
                }
            }
        };
        Ok(Some(Self {
            id: id.clone(),
            ..model
        }))
    }
}
