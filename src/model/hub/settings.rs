//! What the environment says about the hub: the variables of Python's `huggingface_hub`, with the
//! same meaning.
//!
//! | variable                                              | meaning                                               |
//! |-------------------------------------------------------|-------------------------------------------------------|
//! | `HF_ENDPOINT`                                         | the hub's address                                     |
//! | `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`               | the cache; else `$HF_HOME/hub`                        |
//! | `HF_HOME`                                             | else `$XDG_CACHE_HOME/huggingface`, `~/.cache/huggingface` |
//! | `HF_TOKEN`                                            | the token; else the file                              |
//! | `HF_TOKEN_PATH`                                       | the token's file; else `$HF_HOME/token`               |
//! | `HF_HUB_DISABLE_IMPLICIT_TOKEN`                       | send no token                                         |
//! | `HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`              | `1`, `true`, `yes` or `on`: make no request           |
//! | `HF_HUB_DOWNLOAD_TIMEOUT`                             | seconds of silence after which a request is given up  |
//!
//! A proxy is the first of `ALL_PROXY`, `HTTPS_PROXY` and `HTTP_PROXY` that is set; `NO_PROXY`
//! lists the hosts that need none. The certificates that are trusted are the system's, or those of
//! `SSL_CERT_FILE`.
//!
//! Source: `huggingface_hub`, `constants.py`.

use std::{
    env,
    ffi::OsString,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

const ENDPOINT: &str = "https://huggingface.co";
/// Longer than Python's 10 s: it also covers the time that a file server takes to find a large
/// file.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where and how to fetch.
#[derive(Clone, PartialEq, Eq)]
pub struct HubSettings {
    /// The hub's address, such as `https://huggingface.co`.
    pub endpoint: String,
    /// The folder that holds `models--org--name`.
    pub cache_dir: PathBuf,
    /// Sent with every request to the hub; with `None`, no token is sent.
    pub token: Option<String>,
    /// Make no request.
    pub offline: bool,
    /// A request that brings nothing for this long is given up.
    pub patience: Duration,
}

impl HubSettings {
    /// The settings that the environment's variables name, or their defaults.
    #[must_use]
    pub fn from_env() -> HubSettings {
        HubSettings::from_variables(&|name| env::var_os(name))
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> HubSettings {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let is_true = |name: &str| {
            text(name).is_some_and(|value| {
                ["1", "true", "yes", "on"]
                    .iter()
                    .any(|yes| value.eq_ignore_ascii_case(yes))
            })
        };

        let home = set("HOME").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let path = |name: &str| set(name).map(|value| expand_home(Path::new(&value), &home));
        let hf_home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME")
                .unwrap_or_else(|| home.join(".cache"))
                .join("huggingface")
        });
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| hf_home.join("token"));
        let token = if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            text("HF_TOKEN")
                .and_then(trimmed)
                .or_else(|| fs::read_to_string(token_file).ok().and_then(trimmed))
        };

        HubSettings {
            endpoint: text("HF_ENDPOINT").map_or_else(
                || ENDPOINT.to_owned(),
                |value| value.trim_end_matches('/').to_owned(),
            ),
            cache_dir: path("HF_HUB_CACHE")
                .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
                .unwrap_or_else(|| hf_home.join("hub")),
            token,
            offline: is_true(if set("HF_HUB_OFFLINE").is_some() {
                "HF_HUB_OFFLINE"
            } else {
                "TRANSFORMERS_OFFLINE"
            }),
            patience: text("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|value| value.parse().ok())
                .filter(|seconds| *seconds > 0)
                .map_or(PATIENCE, Duration::from_secs),
        }
    }
}

/// Says whether there is a token, never which.
impl fmt::Debug for HubSettings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("HubSettings")
            .field("endpoint", &self.endpoint)
            .field("cache_dir", &self.cache_dir)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("patience", &self.patience)
            .finish()
    }
}

/// `~/models` is a path below the home folder, as it is for Python's `os.path.expanduser`.
fn expand_home(path: &Path, home: &Path) -> PathBuf {
    path.strip_prefix("~")
        .map_or_else(|_| path.to_owned(), |below| home.join(below))
}

/// Tokens end with a line break in many a file and variable.
fn trimmed(text: String) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> HubSettings {
        HubSettings::from_variables(&|name| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn an_empty_environment_means_the_public_hub_and_the_cache_below_home() {
        let settings = settings(&[("HOME", "/home/someone")]);
        assert_eq!(settings.endpoint, "https://huggingface.co");
        assert_eq!(
            settings.cache_dir,
            Path::new("/home/someone/.cache/huggingface/hub")
        );
        assert_eq!(settings.token, None);
        assert!(!settings.offline);
    }

    #[test]
    fn the_cache_is_the_first_of_hf_hub_cache_hf_home_and_xdg_cache_home() {
        let cache = |variables: &[(&str, &str)]| settings(variables).cache_dir;
        let xdg = ("XDG_CACHE_HOME", "/xdg");
        let home = ("HF_HOME", "/hf");
        let hub = ("HF_HUB_CACHE", "/cache");
        assert_eq!(cache(&[xdg]), Path::new("/xdg/huggingface/hub"));
        assert_eq!(cache(&[xdg, home]), Path::new("/hf/hub"));
        assert_eq!(cache(&[xdg, home, hub]), Path::new("/cache"));
    }

    #[test]
    fn a_tilde_is_the_home_folder_and_an_empty_variable_is_none() {
        assert_eq!(
            settings(&[("HOME", "/h"), ("HF_HOME", "~/hf")]).cache_dir,
            Path::new("/h/hf/hub")
        );
        assert_eq!(
            settings(&[("HOME", "/h"), ("HF_HOME", "")]).cache_dir,
            Path::new("/h/.cache/huggingface/hub")
        );
    }

    #[test]
    fn the_token_is_the_variable_s_then_the_file_s() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        fs::write(folder.path().join("token"), "from-file\n").unwrap();
        fs::write(folder.path().join("other"), "from-other").unwrap();
        let other = folder.path().join("other");

        let token = |more: &[(&str, &str)]| settings(&[&[("HF_HOME", home)], more].concat()).token;
        assert_eq!(token(&[]).as_deref(), Some("from-file"));
        assert_eq!(
            token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(),
            Some("from-other")
        );
        assert_eq!(
            token(&[("HF_TOKEN", " from-variable\n")]).as_deref(),
            Some("from-variable")
        );
        assert_eq!(token(&[("HF_TOKEN", " ")]).as_deref(), Some("from-file"));
        assert_eq!(
            token(&[("HF_TOKEN", "x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]),
            None
        );
    }

    #[test]
    fn offline_is_1_true_yes_or_on_in_any_case() {
        for value in ["1", "true", "TRUE", "yes", "On"] {
            assert!(settings(&[("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        for value in ["", "0", "false", "no", "off"] {
            assert!(!settings(&[("HF_HUB_OFFLINE", value)]).offline, "{value}");
        }
        assert!(settings(&[("TRANSFORMERS_OFFLINE", "1")]).offline);
        assert!(!settings(&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn endpoint_and_patience_are_taken_over() {
        let settings = settings(&[
            ("HF_ENDPOINT", "http://mirror/"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "7"),
        ]);
        assert_eq!(settings.endpoint, "http://mirror");
        assert_eq!(settings.patience, Duration::from_secs(7));
    }

    #[test]
    fn a_token_is_not_printed() {
        let settings = settings(&[("HF_TOKEN", "hf_secret")]);
        assert!(!format!("{settings:?}").contains("hf_secret"));
    }
}
