/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every function of PKCS#11 2.40's list, a row each but C_GetFunctionList:
 *   X(name without C_, parameters, arguments, first argument, output, its length)
 * The first argument is the session or the slot. Output and length are what rules spoil: NULL where
 * there is none; the length is a pointer to CK_ULONG.
 */
#ifndef P11FAULTS_FUNCTIONS_H
#define P11FAULTS_FUNCTIONS_H

#define SESSION CK_SESSION_HANDLE s
#define SLOT CK_SLOT_ID s
#define BYTES(name) unsigned char *name, CK_ULONG name##_n
#define RESULT unsigned char *out, CK_ULONG *out_n
#define TEMPLATE(name) CK_ATTRIBUTE *name, CK_ULONG name##_n

/* Parameters that several functions have. */
#define SHAPE_SESSION(X, name) X(name, (SESSION), (s), s, NULL, NULL)
#define SHAPE_INIT(X, name) \
	X(name, (SESSION, CK_MECHANISM * m, CK_OBJECT_HANDLE k), (s, m, k), s, NULL, NULL)
#define SHAPE_IN(X, name) X(name, (SESSION, BYTES(in)), (s, in, in_n), s, NULL, NULL)
#define SHAPE_OUT(X, name) X(name, (SESSION, RESULT), (s, out, out_n), s, out, out_n)
#define SHAPE_IN_OUT(X, name) \
	X(name, (SESSION, BYTES(in), RESULT), (s, in, in_n, out, out_n), s, out, out_n)

#define FUNCTIONS(X) \
	X(Initialize, (void *args), (args), 0, NULL, NULL) \
	X(Finalize, (void *reserved), (reserved), 0, NULL, NULL) \
	X(GetInfo, (CK_INFO * info), (info), 0, info, NULL) \
	X(GetSlotList, (CK_BBOOL present, CK_SLOT_ID * slots, CK_ULONG * n), (present, slots, n), \
		0, slots, n) \
	X(GetSlotInfo, (SLOT, CK_SLOT_INFO * info), (s, info), s, info, NULL) \
	X(GetTokenInfo, (SLOT, CK_TOKEN_INFO * info), (s, info), s, info, NULL) \
	X(WaitForSlotEvent, (CK_FLAGS f, CK_SLOT_ID * slot, void *r), (f, slot, r), 0, NULL, NULL) \
	X(GetMechanismList, (SLOT, CK_MECHANISM_TYPE * list, CK_ULONG * n), (s, list, n), s, list, \
		n) \
	X(GetMechanismInfo, (SLOT, CK_MECHANISM_TYPE t, CK_MECHANISM_INFO * info), (s, t, info), \
		s, info, NULL) \
	X(InitToken, (SLOT, BYTES(pin), unsigned char *label), (s, pin, pin_n, label), s, NULL, \
		NULL) \
	SHAPE_IN(X, InitPIN) \
	X(SetPIN, (SESSION, BYTES(old), BYTES(fresh)), (s, old, old_n, fresh, fresh_n), s, NULL, \
		NULL) \
	X(OpenSession, (SLOT, CK_FLAGS f, void *app, CK_NOTIFY notify, CK_SESSION_HANDLE *ret), \
		(s, f, app, notify, ret), s, NULL, NULL) \
	SHAPE_SESSION(X, CloseSession) \
	X(CloseAllSessions, (SLOT), (s), s, NULL, NULL) \
	X(GetSessionInfo, (SESSION, CK_SESSION_INFO * info), (s, info), s, info, NULL) \
	SHAPE_OUT(X, GetOperationState) \
	X(SetOperationState, \
		(SESSION, BYTES(in), CK_OBJECT_HANDLE encryption, CK_OBJECT_HANDLE signing), \
		(s, in, in_n, encryption, signing), s, NULL, NULL) \
	X(Login, (SESSION, CK_USER_TYPE user, BYTES(pin)), (s, user, pin, pin_n), s, NULL, NULL) \
	SHAPE_SESSION(X, Logout) \
	X(CreateObject, (SESSION, TEMPLATE(t), CK_OBJECT_HANDLE * ret), (s, t, t_n, ret), s, NULL, \
		NULL) \
	X(CopyObject, (SESSION, CK_OBJECT_HANDLE o, TEMPLATE(t), CK_OBJECT_HANDLE * ret), \
		(s, o, t, t_n, ret), s, NULL, NULL) \
	X(DestroyObject, (SESSION, CK_OBJECT_HANDLE o), (s, o), s, NULL, NULL) \
	X(GetObjectSize, (SESSION, CK_OBJECT_HANDLE o, CK_ULONG * ret), (s, o, ret), s, NULL, \
		NULL) \
	X(GetAttributeValue, (SESSION, CK_OBJECT_HANDLE o, TEMPLATE(t)), (s, o, t, t_n), s, t, \
		&t_n) \
	X(SetAttributeValue, (SESSION, CK_OBJECT_HANDLE o, TEMPLATE(t)), (s, o, t, t_n), s, NULL, \
		NULL) \
	X(FindObjectsInit, (SESSION, TEMPLATE(t)), (s, t, t_n), s, NULL, NULL) \
	X(FindObjects, (SESSION, CK_OBJECT_HANDLE * list, CK_ULONG most, CK_ULONG * n), \
		(s, list, most, n), s, list, n) \
	SHAPE_SESSION(X, FindObjectsFinal) \
	SHAPE_INIT(X, EncryptInit) \
	SHAPE_IN_OUT(X, Encrypt) \
	SHAPE_IN_OUT(X, EncryptUpdate) \
	SHAPE_OUT(X, EncryptFinal) \
	SHAPE_INIT(X, DecryptInit) \
	SHAPE_IN_OUT(X, Decrypt) \
	SHAPE_IN_OUT(X, DecryptUpdate) \
	SHAPE_OUT(X, DecryptFinal) \
	X(DigestInit, (SESSION, CK_MECHANISM * m), (s, m), s, NULL, NULL) \
	SHAPE_IN_OUT(X, Digest) \
	SHAPE_IN(X, DigestUpdate) \
	X(DigestKey, (SESSION, CK_OBJECT_HANDLE k), (s, k), s, NULL, NULL) \
	SHAPE_OUT(X, DigestFinal) \
	SHAPE_INIT(X, SignInit) \
	SHAPE_IN_OUT(X, Sign) \
	SHAPE_IN(X, SignUpdate) \
	SHAPE_OUT(X, SignFinal) \
	SHAPE_INIT(X, SignRecoverInit) \
	SHAPE_IN_OUT(X, SignRecover) \
	SHAPE_INIT(X, VerifyInit) \
	X(Verify, (SESSION, BYTES(in), BYTES(sig)), (s, in, in_n, sig, sig_n), s, NULL, NULL) \
	SHAPE_IN(X, VerifyUpdate) \
	SHAPE_IN(X, VerifyFinal) \
	SHAPE_INIT(X, VerifyRecoverInit) \
	SHAPE_IN_OUT(X, VerifyRecover) \
	SHAPE_IN_OUT(X, DigestEncryptUpdate) \
	SHAPE_IN_OUT(X, DecryptDigestUpdate) \
	SHAPE_IN_OUT(X, SignEncryptUpdate) \
	SHAPE_IN_OUT(X, DecryptVerifyUpdate) \
	X(GenerateKey, (SESSION, CK_MECHANISM * m, TEMPLATE(t), CK_OBJECT_HANDLE * ret), \
		(s, m, t, t_n, ret), s, NULL, NULL) \
	X(GenerateKeyPair, \
		(SESSION, CK_MECHANISM * m, TEMPLATE(public), TEMPLATE(private), \
			CK_OBJECT_HANDLE * ret_public, CK_OBJECT_HANDLE * ret_private), \
		(s, m, public, public_n, private, private_n, ret_public, ret_private), s, NULL, \
		NULL) \
	X(WrapKey, (SESSION, CK_MECHANISM * m, CK_OBJECT_HANDLE by, CK_OBJECT_HANDLE k, RESULT), \
		(s, m, by, k, out, out_n), s, out, out_n) \
	X(UnwrapKey, \
		(SESSION, CK_MECHANISM * m, CK_OBJECT_HANDLE by, BYTES(in), TEMPLATE(t), \
			CK_OBJECT_HANDLE * ret), \
		(s, m, by, in, in_n, t, t_n, ret), s, NULL, NULL) \
	X(DeriveKey, \
		(SESSION, CK_MECHANISM * m, CK_OBJECT_HANDLE by, TEMPLATE(t), \
			CK_OBJECT_HANDLE * ret), \
		(s, m, by, t, t_n, ret), s, NULL, NULL) \
	SHAPE_IN(X, SeedRandom) \
	X(GenerateRandom, (SESSION, BYTES(out)), (s, out, out_n), s, out, &out_n) \
	SHAPE_SESSION(X, GetFunctionStatus) \
	SHAPE_SESSION(X, CancelFunction)

#endif
