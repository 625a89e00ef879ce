//! Where a redirect leads, and whether two addresses are of the same server.

use ureq::http::Uri;

/// Scheme, host and port. A server gets the token only if all three are the hub's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Origin {
    is_secure: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` for an address that is neither `http` nor `https`, or names no host.
    pub(super) fn of(uri: &Uri) -> Option<Origin> {
        let is_secure = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        Some(Origin {
            is_secure,
            host: uri.host()?.to_ascii_lowercase(),
            port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }),
        })
    }
}

/// The address in the header `location` of an answer from `base`: a full address, or a path that
/// begins at the host's root. The hub sends no other kind.
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let scheme = base.scheme_str()?;
    let whole = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", base.authority()?)
    } else {
        location.to_owned()
    };
    let uri: Uri = whole.parse().ok()?;
    Origin::of(&uri)?;
    Some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(location: &str) -> Option<String> {
        let base = "https://hub.example:8443/org/name/resolve/main/file"
            .parse()
            .unwrap();
        join(&base, location).map(|uri| uri.to_string())
    }

    #[test]
    fn a_redirect_is_a_whole_address_or_begins_at_the_root() {
        for (location, expected) in [
            ("https://cdn.example/a?b=c", "https://cdn.example/a?b=c"),
            ("//cdn.example/a", "https://cdn.example/a"),
            ("/api/a?b", "https://hub.example:8443/api/a?b"),
        ] {
            assert_eq!(joined(location).as_deref(), Some(expected));
        }
        for location in [
            "file:///etc/passwd",
            "ftp://x/y",
            "elsewhere",
            "",
            "http://",
        ] {
            assert_eq!(joined(location), None, "{location}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap());
        let hub = origin("https://hub.example/a");
        assert!(hub.is_some());
        for same in ["https://HUB.example/b", "https://hub.example:443"] {
            assert_eq!(origin(same), hub, "{same}");
        }
        for other in [
            "http://hub.example/a",
            "https://hub.example:8443/a",
            "https://hub.example.evil.example/a",
            "https://hub.example@evil.example/a",
        ] {
            assert_ne!(origin(other), hub, "{other}");
        }
    }
}
