//! Choices under the names that configurations have for them.

/// A choice under the name that the configuration has for it.
pub fn name_of<T: serde::Serialize>(choice: T) -> String {
    match toml::Value::try_from(choice) {
        Ok(toml::Value::String(name)) => name,
        _ => String::new(),
    }
}
