use super::*;

#[test]
fn an_instance_is_named_after_its_function() {
    let named = |function: &str| new_id(function, [7; 32]).to_string();
    assert_eq!(named("hello"), "hello-7777777777");
    assert_eq!(named("a-rather-long-name"), "a-rather-7777777777");
    assert_eq!(secret().len(), 64);
}
