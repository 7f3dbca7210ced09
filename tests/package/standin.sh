# Stands for the Java agent's two packages: the same names, paths, configuration files and maintainer
# scripts, with a `sleep` as the daemon. Sourced by tests/package/run.
# shellcheck shell=bash

readonly JAVA_VERSION=4.19.1.0

# build_standins DIRECTORY: writes cloudstack-agent.deb and cloudstack-common.deb.
build_standins() {
    local out=$1 work
    work=$(mktemp -d)
    common_files "$work/common"
    java_files "$work/java"
    dpkg-deb --root-owner-group --build "$work/common" "$out/cloudstack-common.deb" >/dev/null
    dpkg-deb --root-owner-group --build "$work/java" "$out/cloudstack-agent.deb" >/dev/null
    rm -rf "$work"
}

control() {
    mkdir -p "$1/DEBIAN"
    {
        printf 'Package: %s\nVersion: %s\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n' "$2" "$JAVA_VERSION"
        [[ -z $3 ]] || printf '%s\n' "$3"
        printf 'Description: stands for the package of this name\n'
    } >"$1/DEBIAN/control"
}

program() {
    mkdir -p "$(dirname "$1")"
    printf '#!/bin/sh\n%s\n' "$2" >"$1"
    chmod 755 "$1"
}

common_files() {
    local program
    control "$1" cloudstack-common ''
    for program in keystore-setup keystore-cert-import; do
        program "$1/usr/share/cloudstack-common/scripts/util/$program" "echo stock $program"
    done
}

java_files() {
    local dir=$1 name
    control "$dir" cloudstack-agent "Depends: cloudstack-common (= $JAVA_VERSION)"
    for name in cloudstack-setup-agent cloudstack-ssh cloudstack-agent-upgrade cloudstack-guest-tool; do
        program "$dir/usr/bin/$name" "echo stock $name"
    done
    program "$dir/usr/share/cloudstack-agent/lib/rolling-maintenance" 'exit 0'
    mkdir -p "$dir/etc/cloudstack/agent" "$dir/etc/default" "$dir/etc/profile.d" "$dir/etc/logrotate.d" \
        "$dir/lib/systemd/system"
    printf '# The Java package'\''s own text\nguid=\nworkers=5\nhost=localhost\nport=8250\nzone=default\npod=default\ncluster=default\nlocal.storage.uuid=\n' \
        >"$dir/etc/cloudstack/agent/agent.properties"
    printf 'paths.script=/usr/share/cloudstack-common\n' >"$dir/etc/cloudstack/agent/environment.properties"
    printf '<log4j/>\n' >"$dir/etc/cloudstack/agent/log4j-cloud.xml"
    # shellcheck disable=SC2016
    printf 'JAVA_OPTS="-Xms256m -Xmx2048m"\nCLASSPATH="/usr/share/cloudstack-agent/lib/*:$CLASSPATH"\n' >"$dir/etc/default/cloudstack-agent"
    printf 'PATH=$PATH:/sbin\n' >"$dir/etc/profile.d/cloudstack-agent-profile.sh"
    printf '/var/log/cloudstack/agent/security_group.log {\n daily\n missingok\n}\n' >"$dir/etc/logrotate.d/cloudstack-agent"
    (cd "$dir" && find etc -type f -printf '/%p\n') >"$dir/DEBIAN/conffiles"
    cat >"$dir/lib/systemd/system/cloudstack-agent.service" <<'END'
[Unit]
Description=stands for the Java agent
[Service]
Type=simple
EnvironmentFile=/etc/default/cloudstack-agent
ExecStart=/bin/sleep infinity
Restart=always
[Install]
WantedBy=multi-user.target
END
    # What debhelper puts into them for a unit at compatibility level 9.
    program "$dir/DEBIAN/postinst" '
[ "$1" = configure ] || exit 0
deb-systemd-helper unmask cloudstack-agent.service >/dev/null || true
if deb-systemd-helper --quiet was-enabled cloudstack-agent.service; then
    deb-systemd-helper enable cloudstack-agent.service >/dev/null || true
else
    deb-systemd-helper update-state cloudstack-agent.service >/dev/null || true
fi
systemctl --system daemon-reload >/dev/null || true
deb-systemd-invoke start cloudstack-agent.service >/dev/null || true'
    program "$dir/DEBIAN/prerm" 'deb-systemd-invoke stop cloudstack-agent.service >/dev/null || true'
    program "$dir/DEBIAN/postrm" '
systemctl --system daemon-reload >/dev/null || true
[ "$1" != remove ] || deb-systemd-helper mask cloudstack-agent.service >/dev/null || true
if [ "$1" = purge ]; then
    deb-systemd-helper purge cloudstack-agent.service >/dev/null || true
    deb-systemd-helper unmask cloudstack-agent.service >/dev/null || true
fi'
}

# repack DEB VERSION DIRECTORY: the same package as another version.
repack() {
    local work
    work=$(mktemp -d)
    dpkg-deb --raw-extract "$1" "$work/p"
    sed -i "s/^Version: .*/Version: $2/" "$work/p/DEBIAN/control"
    dpkg-deb --root-owner-group --build "$work/p" "$3/cloudstack-agent-rs_$2.deb" >/dev/null
    rm -rf "$work"
}
