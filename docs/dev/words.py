"""The words of errors: what each means, and which calls may meet them."""

from __future__ import annotations

# Every word that an answer may carry as `error`, with its status, and what it means.
ERRORS = {
    "400 bad_body": "The body is no JSON, or a value in it is not what it must be.",
    "400 bad_cidr": "The `cidr` is no network, or one of a wrong size.",
    "400 bad_client_ip": "The `client_ip` is no IP address.",
    "400 bad_handshake": "The WebSocket handshake is not valid.",
    "400 bad_host": "The host cannot be asked for.",
    "400 bad_parameter": "A query parameter is not what it must be.",
    "400 bad_port": "The port is none, or there are two.",
    "400 bad_request": "The request breaks HTTP.",
    "400 bad_target": "The target is no `host:port`, or the request's target no path.",
    "400 config_rejected": "The configuration has faults: `errors` has all of them.",
    "400 no_target": "The backend has no health target, and the call names no target.",
    "400 too_many_networks": "There are as many networks as there may be.",
    "400 too_many_peers": "The network has as many peers as it may have.",
    "400 unknown_fields": "The body has fields that nobody knows; the message names them.",
    "401 unauthorized": "A token is needed, or the one that came is wrong.",
    "403 foreign_origin": "Pages of this origin may not call.",
    "403 join_only": "The token is `mesh.join_token`: it opens registration and events of a mesh.",
    "403 read_only": "The token is `read_token`: it may look, not change.",
    "403 wrong_peer_token": "The token is not that of the peer of this id.",
    "404 mesh_off": "The mesh is switched off.",
    "404 not_found": "There is nothing of this name, or nothing at this path.",
    "404 not_installed": "The dashboard is not installed.",
    "405 method_not_allowed": "The path does not know the method; `Allow` has those it knows.",
    "404 pac_off": "The file is switched off.",
    "408 handshake_timeout": "The request did not arrive in time.",
    "409 built_in": "The backend `direct` is always there.",
    "409 config_changed": "The file was changed meanwhile: reload it, read it again.",
    "409 exists": "There is one of this name already.",
    "409 file_gone": "The file is not there any more.",
    "409 in_use": "Something refers to the backend; the message says what.",
    "409 managed_by_uci": "The configuration is made of OpenWrt's /etc/config/bifrost.",
    "409 no_file": "The daemon was started without a configuration file.",
    "409 no_permission": "The daemon's user may not write the file.",
    "409 not_a_file": "It is no regular file any more.",
    "409 not_a_registry": "The peers of this network do not register.",
    "409 peer_exists": "A peer of this id is registered, and its token did not come.",
    "409 read_only": "The file is where nothing can be written.",
    "409 test_running": "A test of this backend is running.",
    "409 too_large": "The configuration would be too large.",
    "412 revision_changed": "The configuration is not that of `If-Match` any more.",
    "413 body_too_large": "The body is larger than the call takes.",
    "414 uri_too_long": "The request's target is too long.",
    "415 unsupported_media_type": "The body must come as `application/json`.",
    "417 expectation_failed": "The `Expect` field asks for something unknown.",
    "421 wrong_host": "The `Host` field names another machine.",
    "422 config_rejected": "The file has faults, or a listener cannot have its address.",
    "426 upgrade_required": "This is a WebSocket.",
    "429 too_many_wrong_tokens": "Too many wrong tokens came from your address.",
    "431 head_too_large": "The head of the request is too large.",
    "500 internal_error": "The daemon met a fault of its own.",
    "500 io_error": "The file cannot be read or written.",
    "503 busy": "Another change is being saved, or another large request served.",
    "503 device_unreadable": "The peers of the WireGuard device cannot be read now.",
    "503 no_listener": "No listener of the proxy can be reached from your address.",
    "503 out_of_descriptors": "The daemon has no file descriptor left.",
    "503 too_many_clients": "All seats of WebSocket clients are taken.",
    "503 too_many_connections": "The control server is busy.",
    "503 too_many_subscribers": "All log streams are taken.",
    "505 http_version_unsupported": "Only HTTP/1.1 and 1.0 are spoken.",
    "507 disk_full": "The file cannot be written: there is no space left.",
    "507 mesh_full": "The peers say more of themselves than there is room for.",
    "507 no_address": "All addresses of the network are in use.",
}
# Nobody can say how long to wait.
WITHOUT_FIELDS = {"503 no_listener"}
# What any call may meet before anybody looks at it; with a token; and with a body.
ALWAYS = (
    "400 bad_request", "400 bad_target", "403 foreign_origin", "408 handshake_timeout",
    "414 uri_too_long", "421 wrong_host", "431 head_too_large", "500 internal_error",
    "503 busy", "503 out_of_descriptors", "503 too_many_connections",
    "505 http_version_unsupported",
)  # fmt: skip
GUARDED = (
    "401 unauthorized", "403 join_only", "413 body_too_large", "417 expectation_failed",
    "429 too_many_wrong_tokens",
)  # fmt: skip
BODIED = ("400 bad_body", "400 unknown_fields", "415 unsupported_media_type")
UNREAD = (
    "409 file_gone", "409 no_permission", "409 not_a_file", "500 io_error", "503 busy",
)  # fmt: skip
EDIT = (
    "400 config_rejected", "409 config_changed", "409 managed_by_uci", "409 no_file",
    "409 read_only", "409 too_large", "412 revision_changed", "422 config_rejected",
    "507 disk_full", *UNREAD,
)  # fmt: skip
MESH = ("404 mesh_off", "404 not_found")
SOCKET = (
    "400 bad_handshake", "400 bad_parameter", "426 upgrade_required", "503 too_many_clients",
)  # fmt: skip
