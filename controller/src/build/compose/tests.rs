//! Images made here are read back by what reads everybody's.

use std::io::Read as _;

use super::*;

fn image(code_text: &str, directory: &Path) -> (Image, Vec<String>) {
    let kept = Kept::open(directory).unwrap();
    let deps = directory.join("installed");
    fs::create_dir_all(deps.join("node_modules/x/__pycache__")).unwrap();
    fs::write(deps.join("node_modules/x/index.js"), "x").unwrap();
    let bundle = directory.join("bundle");
    fs::create_dir_all(bundle.join("src")).unwrap();
    fs::write(bundle.join("src/index.js"), code_text).unwrap();
    for secret in [".env", ".env.local", "tls.key", ".npmrc"] {
        fs::write(bundle.join(secret), "secret").unwrap();
    }
    let (dependency_layer, _) = kept.layer("deps", |archive| dependencies(archive, &deps)).unwrap();
    let mut left_out = Vec::new();
    let code_layer = Archive::write(&directory.join("code"), |archive| {
        left_out = code(archive, &bundle)?;
        Ok(())
    })
    .unwrap();
    let run = Run { command: vec!["/x".to_owned()], working_directory: "/code".to_owned(), ..Run::default() };
    (Image { base: None, layers: vec![dependency_layer, code_layer], run }, left_out)
}

#[test]
fn the_same_input_gives_the_same_image_and_other_code_another_layer() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, _) = image("1", one.path());
    let (second, _) = image("1", two.path());
    assert_eq!(first.documents().unwrap(), second.documents().unwrap());
    let (changed, _) = image("2", one.path());
    assert_eq!(changed.layers[0].digest, first.layers[0].digest);
    assert_ne!(changed.layers[1].digest, first.layers[1].digest);
}

#[test]
fn what_is_secret_by_its_name_is_in_no_layer() {
    let directory = tempfile::tempdir().unwrap();
    let (image, mut left_out) = image("1", directory.path());
    left_out.sort();
    assert_eq!(left_out, [".env", ".env.local", ".npmrc", "tls.key"]);
    let mut names = Vec::new();
    for layer in &image.layers {
        let file = fs::File::open(&layer.path).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_ne!(text, "secret");
            names.push(entry.path().unwrap().display().to_string());
        }
    }
    assert!(
        names.contains(&"code/src/index.js".to_owned())
            && names.contains(&"deps/node_modules/x/index.js".to_owned())
    );
    assert!(!names.iter().any(|name| name.contains("__pycache__")), "{names:?}");
}

#[test]
fn a_layout_and_an_archive_are_what_engines_read() {
    let directory = tempfile::tempdir().unwrap();
    let (image, _) = image("1", directory.path());
    let layout = directory.path().join("layout");
    let digest = write_layout(&layout, &image).unwrap();
    let local = Local::open(&layout).unwrap();
    assert_eq!(local.digest(), digest);
    // An image on top of an image.
    let above = Image { base: Some(local), layers: vec![image.layers[1].clone()], run: Run::default() };
    write_layout(&layout, &above).unwrap();
    let local = Local::open(&layout).unwrap();
    assert_eq!(local.blobs().len(), 4);
    let archive = directory.path().join("archive.tar");
    docker_archive(&local, "app:1", fs::File::create(&archive).unwrap()).unwrap();
    assert_eq!(Local::open(&archive).unwrap().digest(), local.digest());
    let error = write_layout(directory.path(), &image).unwrap_err();
    assert!(error.to_string().contains("is no OCI layout"), "{error}");
}
