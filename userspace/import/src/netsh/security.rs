//! Security methods: what is offered for ESP and AH.

use crate::findings::quote;

/// Most methods in one offer.
const MAX_METHODS: usize = 64;

/// One offer of quick mode: AH, ESP or both, and how long its keys live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) ah: Option<Hash>,
    pub(super) esp: Option<(Cipher, Option<Hash>)>,
    /// Lifetime in kilobytes and seconds, each if given.
    pub(super) kilobytes: Option<u32>,
    pub(super) seconds: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cipher {
    None,
    Des,
    TripleDes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Md5,
    Sha1,
}

/// Parses `qmsecmethods`: `ESP[cipher,hash]:k/s AH[hash]:k/s AH[hash]+ESP[cipher,hash]:k/s`, lifetimes optional.
pub(super) fn quick_mode(text: &str) -> Result<Vec<Method>, String> {
    let methods: Vec<&str> = text.split_whitespace().collect();
    if methods.is_empty() {
        return Err("qmsecmethods= is empty".to_owned());
    }
    if methods.len() > MAX_METHODS {
        return Err(format!("more than {MAX_METHODS} security methods"));
    }
    methods.into_iter().map(method).collect()
}

fn method(text: &str) -> Result<Method, String> {
    let wrong = |what: &str| {
        format!(
            "{} is no security method: {what}; it is written like ESP[3DES,SHA1]:100000k/3600s or AH[SHA1]+ESP[DES,None]",
            quote(text)
        )
    };
    let (transforms, lifetime) = match text.split_once(':') {
        Some((transforms, lifetime)) => (transforms, Some(lifetime)),
        None => (text, None),
    };
    let mut method = Method {
        ah: None,
        esp: None,
        kilobytes: None,
        seconds: None,
    };
    for transform in transforms.split('+') {
        let (name, parameters) = transform
            .strip_suffix(']')
            .and_then(|transform| transform.split_once('['))
            .ok_or_else(|| wrong("brackets are missing"))?;
        match name.to_ascii_lowercase().as_str() {
            "ah" if method.ah.is_none() => {
                let hash = hash(parameters).ok_or_else(|| wrong("AH takes MD5 or SHA1"))?;
                method.ah = Some(hash.ok_or_else(|| wrong("AH needs a hash"))?);
            }
            "esp" if method.esp.is_none() => {
                let (cipher, integrity) = parameters
                    .split_once(',')
                    .ok_or_else(|| wrong("ESP takes a cipher and a hash"))?;
                let cipher = match cipher.trim().to_ascii_lowercase().as_str() {
                    "none" => Cipher::None,
                    "des" => Cipher::Des,
                    "3des" => Cipher::TripleDes,
                    _ => return Err(wrong("the cipher is DES, 3DES or None")),
                };
                let integrity = hash(integrity).ok_or_else(|| wrong("the hash is MD5, SHA1 or None"))?;
                if cipher == Cipher::None && integrity.is_none() {
                    return Err(wrong("it protects nothing"));
                }
                method.esp = Some((cipher, integrity));
            }
            _ => return Err(wrong("it names AH and ESP once each")),
        }
    }
    for part in lifetime.into_iter().flat_map(|lifetime| lifetime.split('/')) {
        let number = |unit| {
            part.strip_suffix(unit)
                .and_then(|number| number.parse::<u32>().ok())
        };
        if let Some(kilobytes) = number(['k', 'K']) {
            method.kilobytes = Some(kilobytes);
        } else if let Some(seconds) = number(['s', 'S']) {
            method.seconds = Some(seconds);
        } else {
            return Err(wrong("the lifetime is not kilobytes (k) and seconds (s)"));
        }
    }
    Ok(method)
}

/// `Some(None)` is no hash, `None` something else.
fn hash(text: &str) -> Option<Option<Hash>> {
    match text.trim().to_ascii_lowercase().as_str() {
        "none" => Some(None),
        "md5" => Some(Some(Hash::Md5)),
        "sha1" => Some(Some(Hash::Sha1)),
        _ => None,
    }
}

/// What the methods use that AES-GCM takes the place of, in the order of strength.
pub(super) fn replaced(methods: &[Method]) -> Vec<&'static str> {
    let cipher = |wanted| {
        methods
            .iter()
            .any(|method| method.esp.is_some_and(|(cipher, _)| cipher == wanted))
    };
    let hash = |wanted| {
        methods.iter().any(|method| {
            method.ah == Some(wanted) || method.esp.is_some_and(|(_, hash)| hash == Some(wanted))
        })
    };
    let mut names = Vec::new();
    for (used, name) in [
        (cipher(Cipher::Des), "DES"),
        (cipher(Cipher::TripleDes), "3DES"),
        (hash(Hash::Md5), "MD5"),
        (hash(Hash::Sha1), "SHA1"),
        (cipher(Cipher::None), "ESP without encryption"),
        (methods.iter().any(|method| method.ah.is_some()), "AH"),
    ] {
        if used {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{Cipher, Hash, Method, quick_mode, replaced};

    #[test]
    fn methods_are_read() {
        let methods = quick_mode("ESP[3DES,SHA1]:100000k/2000s AH[md5]+esp[DES,None] AH[SHA1]:300s").unwrap();
        assert_eq!(
            methods[0],
            Method {
                ah: None,
                esp: Some((Cipher::TripleDes, Some(Hash::Sha1))),
                kilobytes: Some(100_000),
                seconds: Some(2_000),
            }
        );
        assert_eq!(
            (methods[1].ah, methods[1].esp),
            (Some(Hash::Md5), Some((Cipher::Des, None)))
        );
        assert_eq!((methods[2].kilobytes, methods[2].seconds), (None, Some(300)));
        assert_eq!(replaced(&methods), ["DES", "3DES", "MD5", "SHA1", "AH"]);
    }

    #[test]
    fn what_is_no_method_is_refused() {
        for bad in [
            "",
            "ESP",
            "ESP[]",
            "ESP[3DES]",
            "ESP[AES,SHA1]",
            "ESP[None,None]",
            "AH[None]",
            "AH[SHA1]+AH[MD5]",
            "ESP[3DES,SHA1]:1x",
            "ESP[3DES,SHA1]:99999999999k",
            "ESP[3DES,SHA1",
            "X[SHA1]",
        ] {
            assert!(quick_mode(bad).is_err(), "{bad}");
        }
        assert!(quick_mode(&"AH[SHA1] ".repeat(65)).is_err());
    }
}
