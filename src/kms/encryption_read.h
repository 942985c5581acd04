/* SPDX-License-Identifier: Apache-2.0 */
/* Within the reading of EncryptionConfigurations: from a document's nodes to groups. */
#ifndef KEKD_KMS_ENCRYPTION_READ_H
#define KEKD_KMS_ENCRYPTION_READ_H

#include "encryption_config.h"

#include <yaml.h>

/* Adds the document's groups, and findings for what is not as it should be. */
void ec_take_document(struct encryption_config *c, yaml_document_t *document, yaml_node_t *root);

#endif
