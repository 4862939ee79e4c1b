"""The protobuf messages of go-plugin and of `dbplugin.v5`, built at run time.

No generated code and no protoc: the few messages are declared as tables. They live in a pool of
their own, so that another library in the same process may register the same packages.

Field numbers: openbao/sdk/database/dbplugin/v5/proto/database.proto,
go-plugin/internal/plugin/*.proto, grpc/health/v1/health.proto.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    empty_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

MessageClass = Any
"""A message class that exists only at run time; type checkers cannot know its fields."""

_SCALARS = {
    "string": FieldDescriptorProto.TYPE_STRING,
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
}
_STRUCT, _TIMESTAMP = ".google.protobuf.Struct", ".google.protobuf.Timestamp"

Fields = dict[int, tuple[str, str]]
_pool = descriptor_pool.DescriptorPool()
for _well_known in (struct_pb2, timestamp_pb2, empty_pb2):
    _pool.AddSerializedFile(_well_known.DESCRIPTOR.serialized_pb)


def _declare(
    file: str, package: str, messages: dict[str, Fields], imports: tuple[str, ...] = ()
) -> dict[str, MessageClass]:
    """Register one proto3 file; a type is a scalar, `repeated <type>`, a message, or `.full.Name`."""
    proto = descriptor_pb2.FileDescriptorProto(
        name=file, package=package, syntax="proto3", dependency=list(imports)
    )
    for message, fields in messages.items():
        declared = proto.message_type.add(name=message)
        for number, (name, type_name) in fields.items():
            kind = type_name.removeprefix("repeated ")
            field = declared.field.add(name=name, number=number)
            field.label = (
                FieldDescriptorProto.LABEL_REPEATED
                if kind != type_name
                else FieldDescriptorProto.LABEL_OPTIONAL
            )
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type = FieldDescriptorProto.TYPE_MESSAGE
                field.type_name = kind if kind.startswith(".") else f".{package}.{kind}"
    _pool.AddSerializedFile(proto.SerializeToString())
    return {
        name: message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in messages
    }


DATABASE = _declare(
    "dbplugin_v5.proto",
    "dbplugin.v5",
    {
        "InitializeRequest": {1: ("config_data", _STRUCT), 2: ("verify_connection", "bool")},
        "InitializeResponse": {1: ("config_data", _STRUCT)},
        "Statements": {1: ("Commands", "repeated string")},
        "UsernameConfig": {1: ("display_name", "string"), 2: ("role_name", "string")},
        "NewUserRequest": {
            1: ("username_config", "UsernameConfig"),
            2: ("password", "string"),
            3: ("expiration", _TIMESTAMP),
            4: ("statements", "Statements"),
            5: ("rollback_statements", "Statements"),
            6: ("credential_type", "int32"),
            7: ("public_key", "bytes"),
            8: ("subject", "string"),
        },
        "NewUserResponse": {1: ("username", "string")},
        "ChangePassword": {1: ("new_password", "string"), 2: ("statements", "Statements")},
        "ChangePublicKey": {1: ("new_public_key", "bytes"), 2: ("statements", "Statements")},
        "ChangeExpiration": {1: ("new_expiration", _TIMESTAMP), 2: ("statements", "Statements")},
        "UpdateUserRequest": {
            1: ("username", "string"),
            2: ("password", "ChangePassword"),
            3: ("expiration", "ChangeExpiration"),
            4: ("public_key", "ChangePublicKey"),
            5: ("credential_type", "int32"),
        },
        "UpdateUserResponse": {},
        "DeleteUserRequest": {1: ("username", "string"), 2: ("statements", "Statements")},
        "DeleteUserResponse": {},
        "TypeResponse": {1: ("Type", "string")},
        "Empty": {},
    },
    imports=("google/protobuf/struct.proto", "google/protobuf/timestamp.proto"),
)

MULTIPLEXING = _declare(
    "multiplexing.proto",
    "pluginutil.multiplexing",
    {
        "MultiplexingSupportRequest": {},
        "MultiplexingSupportResponse": {1: ("supported", "bool")},
    },
)

VERSION = _declare(
    "version.proto",
    "logical",
    {"Empty": {}, "VersionReply": {1: ("plugin_version", "string")}},
)

PLUGIN = _declare(
    "plugin.proto",
    "plugin",
    {
        "Empty": {},
        "StdioData": {1: ("channel", "int32"), 2: ("data", "bytes")},
        "ConnInfo": {
            1: ("service_id", "uint32"),
            2: ("network", "string"),
            3: ("address", "string"),
        },
    },
)

HEALTH = _declare(
    "health.proto",
    "grpc.health.v1",
    {
        "HealthCheckRequest": {1: ("service", "string")},
        "HealthCheckResponse": {1: ("status", "int32")},
    },
)

EMPTY: MessageClass = message_factory.GetMessageClass(
    _pool.FindMessageTypeByName("google.protobuf.Empty")
)

CREDENTIAL_PASSWORD, CREDENTIAL_RSA_PRIVATE_KEY = 0, 1
"""Values of `credential_type` (openbao/sdk/database/dbplugin/v5: CredentialType)."""
HEALTH_SERVING = 1
