//! What is released, and what signs tokens.
//!
//! Owns that neither of the two directories is the other, or inside of it: whatever lies below `--resources` is a resource,
//! and the key of tokens would be one. A bind mount can still bring them together; who mounts is the machine's owner.

use std::path::Path;

use super::ServeError;

/// Both are there. By whatever names and links they go, they are compared as what they are.
pub(super) fn expect_apart(resources: &Path, state: &Path) -> Result<(), ServeError> {
    let resolved = |path: &Path, of: fn(&Path, std::io::Error) -> ServeError| {
        path.canonicalize().map_err(|source| of(path, source))
    };
    let released = resolved(resources, |path, source| ServeError::Resources { path: path.into(), source })?;
    let kept = resolved(state, |path, source| ServeError::StatePath { path: path.into(), source })?;
    if released.starts_with(&kept) || kept.starts_with(&released) {
        return Err(ServeError::NotApart { resources: resources.into(), state: state.into() });
    }
    Ok(())
}
