"""The names of spans, attributes and metrics: OpenTelemetry's messaging conventions 1.44, and ours.

The conventions call messaging "Development", so what they rename is renamed here alone.
"""

from __future__ import annotations

from typing import Final

from broker import sealing

#: The instrumentation scope of every span and metric.
SCOPE: Final = "headrace"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# -- Attributes of the conventions ------------------------------------------------------

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
CONVERSATION_ID: Final = "messaging.message.conversation_id"
CLIENT_ID: Final = "messaging.client.id"
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
BATCH_COUNT: Final = "messaging.batch.message_count"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"

#: The value of ``messaging.system``; the conventions list none for Redis.
REDIS: Final = "redis"

# -- Attributes of ours -----------------------------------------------------------------

ACTOR: Final = "headrace.actor"
#: The run of the job, 1 for the first; a failure that is retried adds one.
ATTEMPT: Final = "headrace.attempt"
#: The hand-over of the entry, 1 for the first; a worker that died adds one.
DELIVERY: Final = "headrace.delivery"
LEVEL: Final = "headrace.level"
#: Seconds from when the entry was ready until its run began.
WAIT_TIME: Final = "headrace.wait_time"
#: Milliseconds that a send puts the message off.
DELAY: Final = "headrace.delay"
#: How a run ended: see :class:`otel.ending.Ending`.
OUTCOME: Final = "headrace.outcome"
#: How often the message came back from the dead letters.
REDRIVES: Final = "headrace.redrives"
#: The state of a message within its queue.
STATE: Final = "headrace.state"
#: The name of a schedule.
SCHEDULE: Final = "headrace.schedule"
#: What a link leads to: ``creation`` or ``previous_attempt``.
LINK: Final = "headrace.link"

# -- Metrics of the conventions ---------------------------------------------------------

SENT_MESSAGES: Final = "messaging.client.sent.messages"
CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
OPERATION_DURATION: Final = "messaging.client.operation.duration"
PROCESS_DURATION: Final = "messaging.process.duration"

# -- Metrics of ours --------------------------------------------------------------------

QUEUE_MESSAGES: Final = "headrace.queue.messages"
QUEUE_OLDEST_AGE: Final = "headrace.queue.oldest.age"
QUEUE_CONSUMERS: Final = "headrace.queue.consumers"
QUEUE_PAUSED: Final = "headrace.queue.paused"
WAIT_DURATION: Final = "headrace.message.wait.duration"
WORKER_UTILIZATION: Final = "headrace.worker.utilization"
WORKER_THREADS: Final = "headrace.worker.threads"
SETTLE_BATCH_SIZE: Final = "headrace.settle.batch.size"
SETTLE_STALE: Final = "headrace.settle.stale"
REDELIVERIES: Final = "headrace.redeliveries"
RETRIES: Final = "headrace.retries"
PARKED: Final = "headrace.limiter.parked"
SCHEDULE_OVERDUE: Final = "headrace.schedule.overdue"
SCHEDULE_MISSED: Final = "headrace.schedule.missed"
INTAKE_LAG: Final = "headrace.intake.lag"
INTAKE_AGE: Final = "headrace.intake.oldest.age"
SERVER_MEMORY_USED: Final = "headrace.server.memory.used"
SERVER_MEMORY_LIMIT: Final = "headrace.server.memory.limit"
SERVER_EVICTS: Final = "headrace.server.evicts"

# -- Message options --------------------------------------------------------------------

BAGGAGE: Final = "baggage"
#: The span of the attempt before, as a ``traceparent``.
PREVIOUS_ATTEMPT: Final = "previous_attempt"
#: Set by the sender when the process span must not have the creation for its parent.
LINK_ONLY: Final = "trace_link_only"
#: Written by the inspector when a message comes back from the dead letters.
REDRIVES_OPTION: Final = "redrives"
#: Written by the correlation middleware.
CORRELATION_OPTION: Final = "correlation_id"
#: True for a message whose content is encrypted.
ENCRYPTED_OPTION: Final = sealing.OPTION
#: Written by a scheduler on what a schedule sends.
CRON_OPTION: Final = "fire_time"
