//! `org/name[@revision]`. The rules for names are those of `huggingface_hub`'s `validate_repo_id`.

use std::fmt;

use super::HubError;

/// A model repository on the hub and, where one is asked for, a revision of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`.
    pub repo: String,
    /// A branch, a tag or a commit hash. `None` is the branch `main`.
    pub revision: Option<String>,
}

impl HubId {
    /// Reads `org/name[@revision]`.
    ///
    /// # Errors
    /// If the text isn't of that form, or holds a part that the hub allows in no name.
    pub fn parse(text: &str) -> Result<HubId, HubError> {
        let refuse = |reason| {
            Err(HubError::Id {
                id: text.to_owned(),
                reason,
            })
        };

        let (repo, revision) = match text.split_once('@') {
            Some((repo, revision)) => (repo, Some(revision)),
            None => (text, None),
        };
        let Some((org, name)) = repo.split_once('/') else {
            return refuse("it has no `/`");
        };
        for part in [org, name] {
            if part.is_empty() {
                return refuse("a name is empty");
            }
            if !part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            {
                return refuse("names are of ASCII letters, digits, `.`, `_` and `-`");
            }
            if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
                return refuse("a name neither starts nor ends with `-` or `.`");
            }
            if part.contains("--") || part.contains("..") {
                return refuse("a name holds no `--` and no `..`");
            }
        }
        if let Some(revision) = revision
            && !is_revision(revision)
        {
            return refuse(
                "what follows `@` is not the name of a branch or tag, nor a commit hash",
            );
        }
        Ok(HubId {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
        })
    }

    /// The revision asked for, or `main`.
    #[must_use]
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }
}

impl fmt::Display for HubId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Some(revision) => write!(formatter, "{}@{revision}", self.repo),
            None => formatter.write_str(&self.repo),
        }
    }
}

/// A revision becomes a path under `refs/`, so each of its parts must be a plain name.
fn is_revision(text: &str) -> bool {
    text.split('/')
        .all(|part| !part.is_empty() && !part.starts_with('.'))
        && !text.contains("..")
        && text.chars().all(|character| {
            !character.is_whitespace() && !character.is_control() && !r"\:?*[~^".contains(character)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(repo: &str, revision: Option<&str>) -> HubId {
        HubId {
            repo: repo.to_owned(),
            revision: revision.map(str::to_owned),
        }
    }

    #[test]
    fn an_id_is_a_repository_and_perhaps_a_revision() {
        assert_eq!(HubId::parse("org/name").unwrap(), id("org/name", None));
        assert_eq!(
            HubId::parse("Qwen/Qwen2.5-0.5B").unwrap(),
            id("Qwen/Qwen2.5-0.5B", None)
        );
        assert_eq!(
            HubId::parse("org/name@v1.0").unwrap(),
            id("org/name", Some("v1.0"))
        );
        assert_eq!(
            HubId::parse("org/name@refs/pr/3").unwrap(),
            id("org/name", Some("refs/pr/3"))
        );
    }

    #[test]
    fn an_id_is_written_as_it_is_read() {
        for text in ["org/name", "org/name@refs/pr/3"] {
            assert_eq!(HubId::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn without_a_revision_main_is_meant() {
        assert_eq!(HubId::parse("org/name").unwrap().revision(), "main");
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for text in [
            "",
            "name",
            "/name",
            "org/",
            "a/b/c",
            "../name",
            "org/..",
            "org/a..b",
            "org/a--b",
            "org/-a",
            "org/a.",
            "org/na me",
            "org/naïve",
            r"org\name",
            "https://huggingface.co/org/name",
        ] {
            assert!(
                matches!(HubId::parse(text), Err(HubError::Id { .. })),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_revision_that_would_leave_its_folder_is_refused() {
        for revision in [
            "", "..", "../x", "a/../b", "/etc", "a//b", "a/", ".hidden", r"a\b", "a b", "a@{1}/..",
        ] {
            let text = format!("org/name@{revision}");
            assert!(
                matches!(HubId::parse(&text), Err(HubError::Id { .. })),
                "{text:?}"
            );
        }
    }
}
