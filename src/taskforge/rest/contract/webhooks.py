"""Webhooks, as the contract describes them."""

from __future__ import annotations

from taskforge.domain.webhooks import DeliveryState
from taskforge.rest.contract.parts import (
    ACT,
    LINK,
    PAGE,
    READ,
    READ_ONE,
    Operation,
    answer,
    path_parameter,
    query_parameter,
)

DELIVERY_ID = path_parameter("delivery_id", "The id of a delivery.")
SECRET_ID = path_parameter("secret_id", "The id of a secret.")

PATHS: dict[str, dict[str, Operation]] = {
    "/api/v1/webhooks/deliveries": {
        "get": Operation(
            name="listDeliveries",
            summary="List webhook messages, newest first",
            tag="webhooks",
            parameters=(
                *PAGE,
                query_parameter(
                    "state",
                    {"type": "string", "enum": [state.value for state in DeliveryState]},
                    "In this state.",
                ),
            ),
            answers={"200": answer("A page of deliveries.", "DeliveryPage", headers=LINK)},
            problems=("400", *READ),
        ),
    },
    "/api/v1/webhooks/deliveries/{delivery_id}": {
        "get": Operation(
            name="getDelivery",
            summary="A webhook message and how it fared",
            tag="webhooks",
            parameters=(DELIVERY_ID,),
            answers={"200": answer("The delivery.", "DeliveryView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/webhooks/deliveries/{delivery_id}/redeliver": {
        "post": Operation(
            name="redeliver",
            summary="Send a webhook message again",
            tag="webhooks",
            description="With the same id and body, and all attempts anew, whatever became of it before.",
            parameters=(DELIVERY_ID,),
            answers={"202": answer("It will be sent.", "DeliveryView")},
            problems=READ_ONE,
        ),
    },
    "/api/v1/webhooks/secrets": {
        "get": Operation(
            name="listWebhookSecrets",
            summary="List the secrets that sign webhooks",
            tag="webhooks",
            answers={"200": answer("The secrets, without what they are.", "Secrets")},
            problems=READ,
        ),
        "post": Operation(
            name="createWebhookSecret",
            summary="Make a secret that signs webhooks",
            tag="webhooks",
            description="It is told this once. Two can be active, and then both sign: teach receivers the new one, "
            "then retire the old one.",
            answers={"201": answer("The secret.", "SecretMade")},
            problems=("401", "405", "409", "422", "503"),
        ),
    },
    "/api/v1/webhooks/secrets/{secret_id}/retire": {
        "post": Operation(
            name="retireWebhookSecret",
            summary="Sign nothing with a secret any more",
            tag="webhooks",
            parameters=(SECRET_ID,),
            answers={"200": answer("The secret is retired.", "SecretView")},
            problems=ACT,
        ),
    },
}
