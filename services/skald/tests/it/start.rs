//! Starting, and not starting: one clear sentence, its exit code, and nothing damaged.

use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Stdio};

use sqlx::Connection;

use crate::support::{QUICK, System, home, order, run, skald, up_in_vain};

/// The sentence that it ends with.
fn sentence(said: &str) -> &str {
    let sentences: Vec<&str> = said.lines().filter(|line| line.starts_with("error: ")).collect();
    match sentences[..] {
        [one] => one,
        _ => panic!("not one clear sentence: {said}"),
    }
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    for arguments in
        [&["frobnicate"][..], &["up", "--listen", "nowhere"], &["demo", "--orders", "none"], &["audit", "--what"], &[]]
    {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_told() {
    let serve = ["order", "product", "payment", "user", "notification"].map(|service| ["serve", service, "--help"]);
    let others =
        [&["--help"][..], &["up", "--help"], &["demo", "--help"], &["audit", "--help"], &["migrate", "--help"], &["--version"]];
    for command in serve.iter().map(|command| &command[..]).chain(others) {
        let output = run(command);
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        assert!(!output.stdout.is_empty(), "{command:?}");
    }
}

#[test]
fn a_taken_port_is_told_and_costs_nothing() {
    let (home, taken) = (home(), TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = up_in_vain(&home.path().join("data"), &address);
    assert_eq!(code, Some(3), "{said}");
    assert!(sentence(&said).contains(&address), "{said}");
    System::start(home.path(), &[]);
}

#[tokio::test]
async fn a_second_process_on_the_same_data_is_refused_and_the_first_serves_on() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let (code, said) = up_in_vain(&system.data, "127.0.0.1:0");
    assert_eq!(code, Some(3), "{said}");
    assert!(sentence(&said).contains(system.data.to_str().unwrap()), "{said}");
    assert_eq!(system.anybody().get("/readyz").await.status, 200);
}

#[test]
fn a_data_directory_that_cannot_be_made_or_written_is_told() {
    let home = home();
    let file = home.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let mut hopeless = vec![file.clone(), file.join("below")];
    let read_only = home.path().join("read-only");
    fs::create_dir(&read_only).unwrap();
    let mut permissions = fs::metadata(&read_only).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&read_only, permissions).unwrap();
    // Not for root, who may write everywhere.
    if fs::write(read_only.join("probe"), "").is_err() {
        hopeless.push(read_only);
    }
    for data in hopeless {
        let (code, said) = up_in_vain(&data, "127.0.0.1:0");
        assert_eq!(code, Some(3), "{said}");
        assert!(sentence(&said).contains(data.to_str().unwrap()), "{said}");
    }
}

#[test]
fn the_data_is_its_user_s_alone_and_a_directory_that_others_may_write_to_is_refused() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&system.data), 0o700);
    for entry in fs::read_dir(&system.data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let data = system.data.clone();
    assert!(system.stop().success());
    fs::set_permissions(data.join("user.db"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o777)).unwrap();
    let (code, said) = up_in_vain(&data, "127.0.0.1:0");
    assert_eq!(code, Some(3), "{said}");
    assert!(sentence(&said).contains("0777") && sentence(&said).contains("chmod 700"), "{said}");
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let system = System::start(home.path(), &[]);
    assert_eq!(mode(&system.data.join("user.db")), 0o600, "it was readable by others before");
}

#[tokio::test]
async fn a_role_is_given_on_the_database_too_and_the_last_admin_keeps_it() {
    let home = home();
    let system = System::start(home.path(), &[]);
    system.token("ann").await;
    let database = format!("sqlite:{}", system.data.join("user.db").display());
    let give = |email: &str, role: &str, reason: &str| {
        let output = run(&["users", "role", email, role, "--reason", reason, "--database", &database]);
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let email = "ann@shop.example";
    assert_eq!(give(email, "operator", "helps"), (Some(0), format!("{email} is operator\n")));
    assert_eq!(give(email, "operator", "helps"), (Some(0), format!("{email} is operator already\n")));
    for (email, role, reason, code, said) in [
        (crate::support::ADMIN.0, "customer", "left us", 1, "last admin"),
        ("nobody@shop.example", "operator", "helps", 1, "nobody@shop.example"),
        (email, "operator", "\u{200b}", 1, "reason"),
        (email, "king", "helps", 2, "customer, operator or admin"),
    ] {
        let (found, told) = give(email, role, reason);
        assert!(found == Some(code) && told.contains(said), "{found:?}: {told}");
    }
    system.settles().await;
}

#[tokio::test]
async fn a_configured_admin_password_that_is_not_in_force_is_told_and_a_command_sets_it() {
    let home = home();
    assert!(System::start(home.path(), &[]).stop().success());
    let other = "another long password";
    let system = System::start(home.path(), &[("SKALD_ADMIN_PASSWORD", other)]);
    let told = || fs::read_to_string(home.path().join("log")).unwrap().matches("not in force").count();
    assert_eq!(told(), 1);
    let (file, database) = (home.path().join("password"), format!("sqlite:{}", system.data.join("user.db").display()));
    fs::write(&file, format!("{other}\n")).unwrap();
    let output =
        run(&["users", "password", crate::support::ADMIN.0, "--password-file", file.to_str().unwrap(), "--database", &database]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let login = serde_json::json!({"email": crate::support::ADMIN.0, "password": other});
    assert_eq!(system.anybody().post("/v1/login", "login", &login).await.status, 200);
    assert!(system.stop().success());
    let system = System::start(home.path(), &[("SKALD_ADMIN_PASSWORD", other)]);
    assert_eq!(told(), 1, "it is in force now");
    assert!(system.stop().success());
}

/// Lists whose reader goes at once, and a disk that is full.
#[test]
fn a_reader_that_goes_ends_nothing_and_a_full_disk_is_told() {
    let home = home();
    assert!(System::start(home.path(), &[]).stop().success());
    let data = home.path().join("data");
    let audit = ["audit", "--data", data.to_str().unwrap()];
    let letters = ["dead-letters", "list", "--database", &format!("sqlite:{}", data.join("order.db").display())];
    for command in [&audit[..], &letters] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = skald().args(command).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""), "{command:?}");
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = skald().args(command).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{command:?}: {said}");
        assert!(sentence(&said).contains("standard output"), "{said}");
    }
}

/// Notes a step in the database that this build does not know.
async fn from_the_future(database: &Path, version: i64) {
    let mut connection = sqlx::SqliteConnection::connect(&format!("sqlite://{}", database.display())).await.unwrap();
    let noted = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, 'later', TRUE, x'00', 0)";
    sqlx::query(noted).bind(version).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_database_from_a_newer_version_is_refused_and_left_alone() {
    let home = home();
    let system = System::start(home.path(), &[]);
    let data = system.data.clone();
    assert!(system.stop().success());
    for service in ["order", "product", "payment", "user", "notification"] {
        let database = data.join(format!("{service}.db"));
        let before = fs::read(&database).unwrap();
        from_the_future(&database, 9_999).await;
        let newer = fs::read(&database).unwrap();
        let (code, said) = up_in_vain(&data, "127.0.0.1:0");
        assert_eq!(code, Some(3), "{said}");
        assert!(sentence(&said).contains(&format!("{service}.db")) && said.contains("9999"), "{said}");
        assert_eq!(fs::read(&database).unwrap(), newer);
        fs::write(&database, before).unwrap();
    }
    System::start(home.path(), &[]);
}

#[tokio::test]
async fn told_to_stop_it_ends_well_and_goes_on_where_it_stopped() {
    let home = home();
    let system = System::start(home.path(), QUICK);
    let product = system.admin().await.product("TEA-1", 10).await;
    let token = system.token("ann").await;
    let lost = order(&product, 1, "tok_lost");
    let mut ann = crate::support::Person::with(system.address, &token);
    let placed = ann.place("k1", &lost, 0).await;
    assert_eq!(placed.told(), (202, "pending", ""));
    assert!(system.stop().success());
    let system = System::start(home.path(), QUICK);
    let mut ann = crate::support::Person::with(system.address, &token);
    let ended = ann.ended("k1", &lost).await;
    assert_eq!((ended.id(), ended.told()), (placed.id(), (202, "confirmed", "")));
    system.settles().await;
}

#[test]
fn an_audit_of_nothing_is_told() {
    let home = home();
    let output = run(&["audit", "--data", home.path().join("nothing").to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(3));
    sentence(&String::from_utf8(output.stderr).unwrap());
}
