/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the API server keeps what: GROUP/RESOURCE/… for what came to Kubernetes later (a group has
 * a dot), RESOURCE/… for what is built in, some of it under an older name.
 */
#include "snapshot.h"

#include <string.h>

static const struct {
	const char *path, *group, *name;
} built_in[] = {
	{ "minions", "", "nodes" },
	{ "controllers", "", "replicationcontrollers" },
	{ "services/specs", "", "services" },
	{ "services/endpoints", "", "endpoints" },
	{ "deployments", "apps", NULL },
	{ "daemonsets", "apps", NULL },
	{ "statefulsets", "apps", NULL },
	{ "replicasets", "apps", NULL },
	{ "controllerrevisions", "apps", NULL },
	{ "jobs", "batch", NULL },
	{ "cronjobs", "batch", NULL },
	{ "horizontalpodautoscalers", "autoscaling", NULL },
	{ "poddisruptionbudgets", "policy", NULL },
	{ "leases", "coordination.k8s.io", NULL },
	{ "leasecandidates", "coordination.k8s.io", NULL },
	{ "roles", "rbac.authorization.k8s.io", NULL },
	{ "rolebindings", "rbac.authorization.k8s.io", NULL },
	{ "clusterroles", "rbac.authorization.k8s.io", NULL },
	{ "clusterrolebindings", "rbac.authorization.k8s.io", NULL },
	{ "ingress", "networking.k8s.io", "ingresses" },
	{ "ingressclasses", "networking.k8s.io", NULL },
	{ "networkpolicies", "networking.k8s.io", NULL },
	{ "ipaddresses", "networking.k8s.io", NULL },
	{ "servicecidrs", "networking.k8s.io", NULL },
	{ "storageclasses", "storage.k8s.io", NULL },
	{ "csidrivers", "storage.k8s.io", NULL },
	{ "csinodes", "storage.k8s.io", NULL },
	{ "csistoragecapacities", "storage.k8s.io", NULL },
	{ "volumeattachments", "storage.k8s.io", NULL },
	{ "volumeattributesclasses", "storage.k8s.io", NULL },
	{ "endpointslices", "discovery.k8s.io", NULL },
	{ "priorityclasses", "scheduling.k8s.io", NULL },
	{ "runtimeclasses", "node.k8s.io", NULL },
	{ "certificatesigningrequests", "certificates.k8s.io", NULL },
	{ "clustertrustbundles", "certificates.k8s.io", NULL },
	{ "podcertificaterequests", "certificates.k8s.io", NULL },
	{ "flowschemas", "flowcontrol.apiserver.k8s.io", NULL },
	{ "prioritylevelconfigurations", "flowcontrol.apiserver.k8s.io", NULL },
	{ "mutatingwebhookconfigurations", "admissionregistration.k8s.io", NULL },
	{ "validatingwebhookconfigurations", "admissionregistration.k8s.io", NULL },
	{ "validatingadmissionpolicies", "admissionregistration.k8s.io", NULL },
	{ "validatingadmissionpolicybindings", "admissionregistration.k8s.io", NULL },
	{ "mutatingadmissionpolicies", "admissionregistration.k8s.io", NULL },
	{ "mutatingadmissionpolicybindings", "admissionregistration.k8s.io", NULL },
	{ "resourceclaims", "resource.k8s.io", NULL },
	{ "resourceclaimtemplates", "resource.k8s.io", NULL },
	{ "resourceslices", "resource.k8s.io", NULL },
	{ "deviceclasses", "resource.k8s.io", NULL },
	{ "storageversions", "internal.apiserver.k8s.io", NULL },
};

/* One segment of the path; the path behind its slash. NULL: there is none, or it is no name that
 * Kubernetes gives. */
static const char *
take_segment(const char *path, char ret_text[RESOURCE_TEXT_MAX + 1])
{
	size_t len = strcspn(path, "/");

	if (len == 0 || len > RESOURCE_TEXT_MAX ||
		strspn(path, "abcdefghijklmnopqrstuvwxyz0123456789.-") < len)
		return NULL;
	memcpy(ret_text, path, len);
	ret_text[len] = '\0';
	return path + len + (path[len] == '/');
}

static const char *
take_built_in(const char *path, struct resource *r)
{
	for (size_t i = 0; i < STR_COUNT(built_in); i++) {
		size_t len = strlen(built_in[i].path);
		if (strncmp(path, built_in[i].path, len) != 0 || path[len] != '/')
			continue;
		strcpy(r->group, built_in[i].group);
		strcpy(r->name, built_in[i].name ? built_in[i].name : built_in[i].path);
		return path + len + 1;
	}
	r->group[0] = '\0';
	return take_segment(path, r->name);
}

bool
resource_parse(const char *path, struct resource *ret_resource)
{
	struct resource *r = ret_resource;
	const char *rest = take_segment(path, r->group);

	if (rest && strchr(r->group, '.'))
		rest = take_segment(rest, r->name);
	else
		rest = take_built_in(path, r);
	r->object = rest;
	return rest != NULL;
}

static bool
matches(const struct resource *r, const char *pattern)
{
	char whole[2 * RESOURCE_TEXT_MAX + 2];

	if (strcmp(pattern, "*.*") == 0 || (!*r->group && str_glob(pattern, r->name)))
		return true;
	snprintf(whole, sizeof(whole), "%s.%s", r->name, r->group);
	return str_glob(pattern, whole);
}

/* The API server's own bookkeeping, which it encrypts never, whatever it is told. */
static bool
is_internal(const struct resource *r)
{
	static const char *const names[] = { "masterleases", "peerserverleases", "ranges" };

	for (size_t i = 0; !*r->group && i < STR_COUNT(names); i++)
		if (strcmp(r->name, names[i]) == 0)
			return true;
	return false;
}

bool
resource_is_among(const struct resource *r, const char *list)
{
	char pattern[2 * RESOURCE_TEXT_MAX + 2];

	if (is_internal(r))
		return false;
	while (*list) {
		size_t len = strcspn(list, ",");
		if (len > 0 && len < sizeof(pattern)) {
			memcpy(pattern, list, len);
			pattern[len] = '\0';
			if (matches(r, pattern))
				return true;
		}
		list += len + (list[len] == ',');
	}
	return false;
}
