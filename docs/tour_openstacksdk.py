# SPDX-License-Identifier: Apache-2.0
"""The tour of the README with openstacksdk, against a service without Keystone."""

from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from openstack.connection import Connection
from openstack.message.v2.claim import Claim


class Project(NoAuth):
    def get_project_id(self, session, **kwargs):
        return "demo"


session = Session(auth=Project())
queues = Connection(session=session, message_endpoint_override="http://127.0.0.1:8888").message

queues.create_queue(name="news", _default_message_ttl=600)
queues.post_message("news", [{"body": {"to": "ann"}}, {"body": {"to": "bob"}, "ttl": 3600}])
for message in queues.messages("news", echo=True):
    print("there is", message.body)

claim = Claim.new(queue_name="news", ttl=300, grace=60).create(queues)
for message in claim.messages:
    print("doing", message["body"])
    queues.delete_message("news", message["id"], claim=claim.id)

queues.delete_queue("news")
