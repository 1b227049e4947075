from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ORDER_UNSPECIFIED: _ClassVar[Order]
    ORDER_BATCH: _ClassVar[Order]
    ORDER_KEY: _ClassVar[Order]

class Feature(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEATURE_UNSPECIFIED: _ClassVar[Feature]
    FEATURE_BEGUN: _ClassVar[Feature]
    FEATURE_EXTEND: _ClassVar[Feature]
    FEATURE_CANCEL: _ClassVar[Feature]
ORDER_UNSPECIFIED: Order
ORDER_BATCH: Order
ORDER_KEY: Order
FEATURE_UNSPECIFIED: Feature
FEATURE_BEGUN: Feature
FEATURE_EXTEND: Feature
FEATURE_CANCEL: Feature

class FromRuntime(_message.Message):
    __slots__ = ("hello", "batch", "cancel")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    batch: Batch
    cancel: Cancel
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "consumer", "group", "timeout_ms", "order", "max_batch", "max_batches", "wait_ms", "max_timeout_ms")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CONSUMER_FIELD_NUMBER: _ClassVar[int]
    GROUP_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCHES_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    version: int
    consumer: str
    group: str
    timeout_ms: int
    order: Order
    max_batch: int
    max_batches: int
    wait_ms: int
    max_timeout_ms: int
    def __init__(self, version: _Optional[int] = ..., consumer: _Optional[str] = ..., group: _Optional[str] = ..., timeout_ms: _Optional[int] = ..., order: _Optional[_Union[Order, str]] = ..., max_batch: _Optional[int] = ..., max_batches: _Optional[int] = ..., wait_ms: _Optional[int] = ..., max_timeout_ms: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("first_id", "begin_by_ms", "runs")
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    BEGIN_BY_MS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    first_id: int
    begin_by_ms: int
    runs: _containers.RepeatedCompositeFieldContainer[Run]
    def __init__(self, first_id: _Optional[int] = ..., begin_by_ms: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[Run, _Mapping]]] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("topic", "partition", "epoch", "deliveries")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    epoch: int
    deliveries: _containers.RepeatedCompositeFieldContainer[Delivery]
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., epoch: _Optional[int] = ..., deliveries: _Optional[_Iterable[_Union[Delivery, _Mapping]]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("offset", "timestamp_ms", "key", "value", "headers", "attempt")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    offset: int
    timestamp_ms: int
    key: bytes
    value: bytes
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    attempt: int
    def __init__(self, offset: _Optional[int] = ..., timestamp_ms: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., attempt: _Optional[int] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: bytes
    def __init__(self, name: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("deliveries", "reason")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Cancel.Reason]
        REASON_REVOKED: _ClassVar[Cancel.Reason]
        REASON_TIMED_OUT: _ClassVar[Cancel.Reason]
        REASON_NOT_BEGUN: _ClassVar[Cancel.Reason]
    REASON_UNSPECIFIED: Cancel.Reason
    REASON_REVOKED: Cancel.Reason
    REASON_TIMED_OUT: Cancel.Reason
    REASON_NOT_BEGUN: Cancel.Reason
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    deliveries: _containers.RepeatedCompositeFieldContainer[Range]
    reason: Cancel.Reason
    def __init__(self, deliveries: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., reason: _Optional[_Union[Cancel.Reason, str]] = ...) -> None: ...

class Range(_message.Message):
    __slots__ = ("first_id", "count")
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first_id: int
    count: int
    def __init__(self, first_id: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class FromHandler(_message.Message):
    __slots__ = ("credits", "verdicts", "welcome", "begun", "extensions")
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    EXTENSIONS_FIELD_NUMBER: _ClassVar[int]
    credits: int
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    welcome: Welcome
    begun: _containers.RepeatedCompositeFieldContainer[Range]
    extensions: _containers.RepeatedCompositeFieldContainer[Extension]
    def __init__(self, credits: _Optional[int] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., begun: _Optional[_Iterable[_Union[Range, _Mapping]]] = ..., extensions: _Optional[_Iterable[_Union[Extension, _Mapping]]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("version", "sdk_name", "sdk_version", "orders", "features", "max_batch", "max_message_bytes")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SDK_NAME_FIELD_NUMBER: _ClassVar[int]
    SDK_VERSION_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    version: int
    sdk_name: str
    sdk_version: str
    orders: _containers.RepeatedScalarFieldContainer[Order]
    features: _containers.RepeatedScalarFieldContainer[Feature]
    max_batch: int
    max_message_bytes: int
    def __init__(self, version: _Optional[int] = ..., sdk_name: _Optional[str] = ..., sdk_version: _Optional[str] = ..., orders: _Optional[_Iterable[_Union[Order, str]]] = ..., features: _Optional[_Iterable[_Union[Feature, str]]] = ..., max_batch: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...

class Extension(_message.Message):
    __slots__ = ("deliveries", "time_ms")
    DELIVERIES_FIELD_NUMBER: _ClassVar[int]
    TIME_MS_FIELD_NUMBER: _ClassVar[int]
    deliveries: Range
    time_ms: int
    def __init__(self, deliveries: _Optional[_Union[Range, _Mapping]] = ..., time_ms: _Optional[int] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("first_id", "count", "done", "retry", "skip", "dead_letter", "fail", "release")
    FIRST_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    FAIL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    first_id: int
    count: int
    done: Done
    retry: Retry
    skip: Skip
    dead_letter: DeadLetter
    fail: Fail
    release: Release
    def __init__(self, first_id: _Optional[int] = ..., count: _Optional[int] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., retry: _Optional[_Union[Retry, _Mapping]] = ..., skip: _Optional[_Union[Skip, _Mapping]] = ..., dead_letter: _Optional[_Union[DeadLetter, _Mapping]] = ..., fail: _Optional[_Union[Fail, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("produce",)
    PRODUCE_FIELD_NUMBER: _ClassVar[int]
    produce: _containers.RepeatedCompositeFieldContainer[Record]
    def __init__(self, produce: _Optional[_Iterable[_Union[Record, _Mapping]]] = ...) -> None: ...

class Retry(_message.Message):
    __slots__ = ("reason", "delay_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    delay_ms: int
    def __init__(self, reason: _Optional[str] = ..., delay_ms: _Optional[int] = ...) -> None: ...

class Skip(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Fail(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("reason", "delay_ms")
    REASON_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    delay_ms: int
    def __init__(self, reason: _Optional[str] = ..., delay_ms: _Optional[int] = ...) -> None: ...

class Record(_message.Message):
    __slots__ = ("topic", "partition", "key", "value", "headers", "timestamp_ms")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_MS_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: _containers.RepeatedCompositeFieldContainer[Header]
    timestamp_ms: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., key: _Optional[bytes] = ..., value: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[Header, _Mapping]]] = ..., timestamp_ms: _Optional[int] = ...) -> None: ...
